"""Attention over rows that hold a prompt and its responses, without the scores that a mask would throw away.

A row of the packed layout has two kinds of parts: the prompt, whose tokens see the earlier tokens of the prompt, and
each response, whose tokens see the whole prompt and the earlier tokens of that response. Under a 4-D mask, SDPA
computes the scores of all pairs of tokens. Here each part is computed by itself, with no mask and no padding:

- by `scaled_dot_product_attention`, which then may choose its flash kernels, on GPUs and in bfloat16;
- by matrix products on a CPU in float32, where SDPA's kernel takes twice the time, most of it in the backward pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as attend

from seva_ray.private.transformers import attention_of, use_attention

NAME = "pairs_in_parts"
"""The name of this attention among those of transformers."""
LONG = 512
"""Number of tokens from which a row's parts are computed one by one. For shorter rows, one call under a mask is as
fast."""
BLOCK = 128
"""Number of queries in one matrix product."""


class Span(NamedTuple):
    """Tokens `own` of a row, as first and last + 1. Each sees all tokens of `seen`, and those of `own` up to itself."""

    row: int
    seen: tuple[int, int]
    own: tuple[int, int]


def parts_of(branch: Tensor, num_after: int) -> list[Span]:
    """The parts of rows of PreferenceCollator. branch: (R, T), with the responses in the last `num_after` columns."""
    before = branch.shape[1] - num_after
    numbers = torch.arange(int(branch.max()) + 1, device=branch.device)
    parts = []
    for row, lengths in enumerate((branch[:, None] == numbers[:, None]).sum(-1).tolist()):
        prompt, *responses = lengths
        responses = [length for length in responses if length]
        start = before - prompt
        if len(responses) == 1:  # prompt and response are one text
            parts.append(Span(row, (start, start), (start, before + responses[0])))
            continue
        parts.append(Span(row, (start, start), (start, before)))
        end = before
        for length in responses:
            begin, end = end, end + length
            parts.append(Span(row, (start, before), (begin, end)))
    return parts


def attention_in_parts(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    pair_parts: Sequence[Span] | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The same as transformers' attention by SDPA: query (R, H, T, D), key and value (R, G, T, D) -> (R, T, H, D).

    The parts come from the call of the model, which hands them down to all layers. Without them it is SDPA's.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if pair_parts is None or dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    exact = query.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if query.device.type == "cpu" and exact:
        found: Tensor = Products.apply(query, key, value, pair_parts, scale)
    else:
        found = by_sdpa(query, key, value, pair_parts, scale)
    return found.transpose(1, 2).contiguous(), None


def use_parts(decoder: Any) -> bool:
    """Let a language model compute attention in parts, if it computes it by SDPA. Returns whether it does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if attention_of(decoder) == "sdpa":
        AttentionInterface.register(NAME, attention_in_parts)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        use_attention(decoder, NAME)
    return attention_of(decoder) == NAME


def by_sdpa(query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Span], scale: float) -> Tensor:
    """Attention by one call of SDPA for each part: (R, H, T, D), with 0 for padding."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    rows: list[list[Tensor]] = [[] for _ in query]
    ends = [0] * len(query)
    for row, seen, own in parts:
        asked, its_key, its_value = (tensor[row : row + 1, :, slice(*own)] for tensor in (query, key, value))
        if seen[0] == seen[1]:
            found = attend(asked, its_key, its_value, is_causal=True, scale=scale)
        else:
            keys, values = (
                torch.cat([whole[row : row + 1, :, slice(*seen)], tail], 2)
                for whole, tail in ((key, its_key), (value, its_value))
            )
            bias: Any = causal_lower_right(asked.shape[2], keys.shape[2])
            found = attend(asked, keys, values, attn_mask=bias, scale=scale)
        rows[row] += [query.new_zeros(*asked.shape[:2], own[0] - ends[row], asked.shape[3]), found]
        ends[row] = own[1]
    width = query.shape[2]
    for row, end in enumerate(ends):
        rows[row].append(query.new_zeros(1, query.shape[1], width - end, query.shape[3]))
    return torch.cat([torch.cat(pieces, 2) for pieces in rows])


class Block(NamedTuple):
    """At most BLOCK tokens of a row, and the spans of the keys that they see. The last span ends with these tokens
    themselves, each of which sees no later one."""

    row: int
    own: slice
    spans: Sequence[slice]


def blocks_of(parts: Sequence[Span]) -> Iterator[Block]:
    for row, seen, (first, last) in parts:
        for begin in range(first, last, BLOCK):
            end = min(begin + BLOCK, last)
            spans = [slice(*seen), slice(first, end)]
            yield Block(row, slice(begin, end), [span for span in spans if span.start < span.stop])


class Products(torch.autograd.Function):
    """Attention by matrix products, one block of queries at a time: (R, H, T, D), with 0 for padding.

    The weights of attention are kept for the backward pass, which is what makes it fast: for each head as many numbers
    as there are pairs of tokens that see each other. With gradient checkpointing they are those of one layer.
    If H query heads share G heads of keys and values, the queries of a group are rows of one product.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Span], scale: float) -> Tensor:
        groups = key.shape[1]
        out, kept, keep = torch.zeros_like(query), [], any(ctx.needs_input_grad)
        for row, own, spans in blocks_of(parts):
            asked = by_group(query[row, :, own], groups)
            scores = torch.cat([asked @ key[row, :, span].mT for span in spans], -1).mul_(scale)
            weights = without_later(scores, own.stop - own.start).softmax(-1)
            found = torch.zeros_like(asked)
            for part, span in zip(split(weights, spans), spans, strict=True):
                found.baddbmm_(part, value[row, :, span])
            out[row, :, own] = found.view(out[row, :, own].shape)
            if keep:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        groups, scale = key.shape[1], ctx.scale
        to_query, to_key, to_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
        mean = (grad * out).sum(-1, keepdim=True)
        for (row, own, spans), weights in zip(blocks_of(ctx.parts), kept, strict=True):
            asked, slope = (by_group(tensor[row, :, own], groups) for tensor in (query, grad))
            to_scores = torch.cat([slope @ value[row, :, span].mT for span in spans], -1)
            to_scores.sub_(by_group(mean[row, :, own], groups)).mul_(weights)
            to_asked = torch.zeros_like(asked)
            for span, weight, to_score in zip(spans, split(weights, spans), split(to_scores, spans), strict=True):
                to_value[row, :, span].baddbmm_(weight.mT, slope)
                to_key[row, :, span].baddbmm_(to_score.mT, asked, alpha=scale)
                to_asked.baddbmm_(to_score, key[row, :, span], alpha=scale)
            to_query[row, :, own] = to_asked.view(to_query[row, :, own].shape)
        return to_query, to_key, to_value, None, None


def by_group(heads: Tensor, groups: int) -> Tensor:
    """(H, T, D) -> (G, H / G * T, D): the heads that share keys follow each other."""
    return heads if len(heads) == groups else heads.reshape(groups, -1, heads.shape[-1])


def split(weights: Tensor, spans: Sequence[slice]) -> Sequence[Tensor]:
    return weights.split([span.stop - span.start for span in spans], -1)


def without_later(scores: Tensor, number: int) -> Tensor:
    """Scores of `number` queries, where the last `number` keys are the same tokens: -inf where a key is later."""
    later = torch.ones(number, number, dtype=torch.bool).triu(1)
    own = scores.view(len(scores), -1, number, scores.shape[-1])[..., -number:]
    own.masked_fill_(later, -torch.inf)
    return scores
