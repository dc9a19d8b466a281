"""Attention in parts: the numbers of one call under the mask, by matrix products and by SDPA."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from seva_ray.dpo import attention
from seva_ray.dpo.attention import NAME, Products, Span, by_sdpa, parts_of, use_parts
from seva_ray.dpo.batch import NOTHING
from seva_ray.dpo.logps import attention_mask
from seva_ray.dpo.policy import load_model

LENGTHS = [(9, [4, 1, 7]), (3, [2, 2]), (12, [6])]
"""The lengths of the prompt and of the responses of each row, in tokens. The last row is one text."""
BEFORE = 12


@pytest.fixture(scope="module")
def branch() -> torch.Tensor:
    """Prompts are padded on the left, responses on the right."""
    rows = []
    for prompt, responses in LENGTHS:
        tokens = [*[0] * prompt, *(number for number, length in enumerate(responses, 1) for _ in range(length))]
        rows.append([NOTHING] * (BEFORE - prompt) + tokens)
    width = max(map(len, rows))
    return torch.tensor([row + [NOTHING] * (width - len(row)) for row in rows])


def test_a_prompt_sees_itself_and_a_response_sees_the_prompt_and_itself(branch):
    assert parts_of(branch, branch.shape[1] - BEFORE) == [
        Span(0, (3, 3), (3, 12)),
        Span(0, (3, 12), (12, 16)),
        Span(0, (3, 12), (16, 17)),
        Span(0, (3, 12), (17, 24)),
        Span(1, (9, 9), (9, 12)),
        Span(1, (9, 12), (12, 14)),
        Span(1, (9, 12), (14, 16)),
        Span(2, (0, 0), (0, 18)),
    ]


@pytest.mark.parametrize("groups", [6, 2, 1])
@pytest.mark.parametrize("block", [3, 128])
@pytest.mark.parametrize("way", [Products.apply, by_sdpa])
def test_each_way_computes_and_derives_what_one_call_under_the_mask_does(
    way: Callable[..., torch.Tensor], block, groups, branch, monkeypatch
):
    monkeypatch.setattr(attention, "BLOCK", block)
    random = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=random, dtype=torch.float64)
    rows, width = branch.shape
    query, key, value = (draw(rows, heads, width, 5).requires_grad_() for heads in (6, groups, groups))
    mask, there = attention_mask(branch), (branch != NOTHING)[:, None, :, None]
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.7, enable_gqa=True)
    weights = draw(wanted.shape) * there
    wanted_grads = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    found = way(query, key, value, parts_of(branch, width - BEFORE), 0.7)
    torch.testing.assert_close(found, wanted * there, rtol=0, atol=1e-12)
    grads = torch.autograd.grad((found * weights).sum(), (query, key, value))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        assert wanted_grad.norm() > 1
        torch.testing.assert_close(grad, wanted_grad, rtol=0, atol=1e-12)


def test_a_model_that_computes_attention_in_another_way_keeps_it(toy_model):
    decoder = load_model(toy_model, "float32").get_decoder()
    decoder.set_attn_implementation("eager")
    assert not use_parts(decoder)
    assert decoder.config._attn_implementation == "eager"
    decoder.set_attn_implementation("sdpa")
    assert use_parts(decoder)
    assert use_parts(decoder)
    assert decoder.config._attn_implementation == NAME
