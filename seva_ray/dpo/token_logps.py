"""Log-probabilities of tokens from the states before a model's output head, without the logits of all tokens.

A response of 100 tokens has 15 million logits with Qwen's vocabulary, and training would hold them three times. Here
they are made for a few tokens at a time, and what the backward pass needs of them is computed at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WHOLE_BYTES = 2**24
"""Logits up to this size are computed all at once."""
CHUNK_BYTES = {"cpu": 2**24}
"""Size of the logits of one chunk of tokens, in float32, by device."""
CHUNK_BYTES_OF_GPU = 2**28
"""The size of the logits of one chunk on GPUs, which need larger products to be fast."""
AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings of models that change logits after the head."""


def logits_fit(whole: Any, num_tokens: int) -> bool:
    """Whether all logits of so many tokens are computed at once: they are small, or they are not just a product with
    the weights of the head."""
    head, config = whole.get_output_embeddings(), whole.config.get_text_config()
    plain = type(head) is nn.Linear and head.bias is None
    changed = any(getattr(config, name, None) is not None for name in AFTER_HEAD)
    return changed or not plain or 4 * num_tokens * config.vocab_size <= WHOLE_BYTES


@contextmanager
def scoring_head(head: Any, scored: Tensor, targets: Tensor) -> Iterator[None]:
    """In the block, the head gives for states (R, L, D) the log-probabilities, float32 (N,), of the N targets that
    come after the states where `scored` (R, L - 1) is True.

    It is still the module that is called: DeepSpeed's ZeRO-3 gathers its weights then.
    """

    def forward(states: Tensor) -> Tensor:
        chunk = chunk_of(head.out_features, states.device.type)
        found: Tensor = TokenLogps.apply(states[:, -scored.shape[1] - 1 : -1][scored], head.weight, targets, chunk)
        return found

    own = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def chunk_of(vocabulary: int, device: str) -> int:
    """The number of tokens in a chunk."""
    return max(1, CHUNK_BYTES.get(device, CHUNK_BYTES_OF_GPU) // (4 * vocabulary))


class TokenLogps(torch.autograd.Function):
    """log softmax(states @ weight.T)[targets], float32 (N,), a chunk of tokens at a time.

    Each token's gradient with respect to its state is computed in the forward pass, so that no logits are made twice.
    A head that is trained itself gets its gradient from logits that are made again.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        found, slopes, norms = [], [], []
        for some, its_targets in zip(states.split(chunk), targets[:, None].split(chunk), strict=True):
            logits = logits_of(some, weight)
            wanted = logits.gather(1, its_targets)
            norm = to_softmax(logits)
            found.append(wanted - norm)
            norms.append(norm)
            if ctx.needs_input_grad[0]:
                slopes.append(to_slope(logits, its_targets).to(weight.dtype) @ weight)
        ctx.save_for_backward(states, weight, targets, torch.cat(norms), *slopes)
        ctx.chunk = chunk
        return torch.cat(found)[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        states, weight, targets, norms, *slopes = ctx.saved_tensors
        to_states = (torch.cat(slopes) * grad[:, None]).to(states.dtype) if slopes else None
        if not ctx.needs_input_grad[1]:
            return to_states, None, None, None
        to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        columns = (states, norms, targets[:, None], grad[:, None])
        for some, norm, its_targets, its_grad in zip(*(column.split(ctx.chunk) for column in columns), strict=True):
            slope = to_slope(logits_of(some, weight).sub_(norm).exp_(), its_targets).mul_(its_grad)
            to_weight += slope.to(weight.dtype).T @ some.to(weight.dtype)
        return to_states, to_weight.to(weight.dtype), None, None


def logits_of(states: Tensor, weight: Tensor) -> Tensor:
    """The logits, in float32, or in float64 if the weights are float64."""
    logits = nn.functional.linear(states.to(weight.dtype), weight)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def to_softmax(logits: Tensor) -> Tensor:
    """Replace logits (N, V) by their softmax, and return the logarithm of the sum of their exponentials, (N, 1)."""
    top = logits.amax(-1, keepdim=True)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    logits.div_(total)
    return total.log_().add_(top)


def to_slope(softmax: Tensor, targets: Tensor) -> Tensor:
    """Replace the softmax (N, V) by the gradient of the targets' log-probabilities with respect to the logits."""
    return softmax.neg_().scatter_add_(1, targets, softmax.new_ones(targets.shape))
