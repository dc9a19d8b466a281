"""Log-probabilities without all logits: equal to those with them, for frozen and trained heads, in little memory."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from seva_ray.dpo import token_logps
from seva_ray.dpo.policy import load_model
from seva_ray.dpo.token_logps import TokenLogps, logits_fit


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("trained", [True, False])
def test_they_and_their_gradients_are_those_of_cross_entropy(chunk, trained):
    random = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 8, generator=random, dtype=torch.float64) for n in (11, 30))
    targets = torch.randint(30, (11,), generator=random)
    given = (states.requires_grad_(), weight.requires_grad_(trained))
    after = torch.randn(11, generator=random, dtype=torch.float64)
    found = TokenLogps.apply(*given, targets, chunk)
    wanted = -cross_entropy(states @ weight.T, targets, reduction="none")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    grads, wanted_grads = (torch.autograd.grad(logps @ after, given[: 1 + trained]) for logps in (found, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made in the block."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.number = max(self.number, tensor.numel())
        return result


@pytest.mark.parametrize("trained", [True, False])
def test_no_tensor_is_as_large_as_the_logits_of_all_tokens(trained):
    states, head = torch.randn(64, 16, requires_grad=True), nn.Linear(16, 5000, bias=False).requires_grad_(trained)
    targets = torch.arange(64)
    with Largest() as whole:
        cross_entropy(head(states), targets).backward()
    assert whole.number == 64 * 5000
    with Largest() as chunks:
        TokenLogps.apply(states, head.weight, targets, 8).sum().backward()
    assert chunks.number == 16 * 5000, "the weights are the largest"


def test_models_that_change_their_logits_after_the_head_get_all_of_them(toy_model, monkeypatch):
    monkeypatch.setattr(token_logps, "WHOLE_BYTES", 0)
    model = load_model(toy_model, "float32")
    assert not logits_fit(model, 10)
    model.config.text_config.final_logit_softcapping = 30.0
    assert logits_fit(model, 10)
