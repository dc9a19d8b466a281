"""Ways to compute attention over packed rows, to be measured against what training does (`in_parts`).

`mask` is SDPA under a 4-D mask, which training uses for short rows.
`causal` is what flash kernels make of plain rows without padding. `two_part` splits a packed row: the prompt sees
itself, and each response sees the keys of the prompt and its own, which needs no mask. `flex`: FlexAttention.
"""

from typing import Any

import torch
from torch import Tensor

state: dict[str, Any] = {}
"""What the functions below are told of the batch: `width` of a row, tokens `before` the responses, tokens of a response
(`long`), and FlexAttention's `mask`."""

attend = torch.nn.functional.scaled_dot_product_attention


def causal(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: Any = None, **_: Any) -> Any:
    is_causal = query.shape[2] == state["width"]  # the vision tower sees everything
    return attend(query, key, value, is_causal=is_causal, scale=scaling).transpose(1, 2), None


def two_part(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: Any = None, **_: Any) -> Any:
    from torch.nn.attention.bias import causal_lower_right

    before, long = state["before"], state["long"]
    rows, heads, width, size = query.shape
    if width != before + 2 * long:
        return attend(query, key, value, scale=scaling).transpose(1, 2), None
    asked, seen, taken = (part[:, :, :before] for part in (query, key, value))
    prompt = attend(asked, seen, taken, is_causal=True, scale=scaling)

    def folded(part: Tensor) -> Tensor:
        return part[:, :, before:].view(rows, heads, 2, long, size).transpose(1, 2).flatten(0, 1)

    keys, values = (torch.cat([part[:, :, :before].repeat_interleave(2, 0), folded(part)], 2) for part in (key, value))
    bias: Any = causal_lower_right(long, before + long)
    answers = attend(folded(query), keys, values, attn_mask=bias, scale=scaling)
    answers = answers.view(rows, 2, heads, long, size).transpose(1, 2).flatten(2, 3)
    return torch.cat([prompt, answers], 2).transpose(1, 2), None


def flex(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: Any = None, **_: Any) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    if query.shape[2] != state["width"]:
        return attend(query, key, value, scale=scaling).transpose(1, 2), None
    compiled = state.setdefault("compiled", torch.compile(flex_attention))
    return compiled(query, key, value, block_mask=state["mask"], scale=scaling).transpose(1, 2), None


def use(model: Any, name: str, batch: dict[str, Tensor], response: int, packed: bool) -> None:
    """Let the language model compute attention in this way for batches of this shape."""
    from torch.nn.attention.flex_attention import create_block_mask
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from seva_ray.dpo import logps
    from seva_ray.private.transformers import use_attention

    rows, width = batch["input_ids"].shape
    state.update(width=width, long=response + 1, before=width - (2 if packed else 1) * (response + 1))
    if name == "flex":
        branch = batch["branch"]

        def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & ((branch[row, key] == 0) | (branch[row, key] == branch[row, query]))

        state["mask"] = create_block_mask(allowed, rows, None, width, width, device=branch.device)
    ways = {"mask": sdpa_attention_forward, "causal": causal, "two_part": two_part, "flex": flex}
    for other, function in ways.items():
        AttentionInterface.register(other, function)
    logps.LONG = 0
    use_attention(model.get_base_model().model.language_model, "sdpa" if name == "in_parts" else name)
