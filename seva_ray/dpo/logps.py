"""A batch of pairs -> the log-probabilities of its responses under a model of any family.

A model gets what its own processor has made of the prompts, and three things that are made here because several
responses may share a prompt: which tokens see each other, the positions of all tokens, and the types of the responses'.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from seva_ray.dpo.attention import LONG, parts_of, use_parts
from seva_ray.dpo.batch import NOTHING, OWN, PROMPT
from seva_ray.dpo.token_logps import logits_fit, scoring_head
from seva_ray.vlm.model_parts import unwrapped
from seva_ray.vlm.rows import MM_TYPES, types_among


def response_logps(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """log pi(response | image, question), summed over its tokens: float32 (B, 1 + K), 0 if there is no response."""
    slot, whole = batch["slot"], unwrapped(model)
    inputs = model_inputs(model, batch) | {"logits_to_keep": slot.shape[1], "use_cache": False}
    targets, fits = batch["input_ids"][:, -slot.shape[1] + 1 :], logits_fit(whole, slot.numel())
    slot = slot[:, 1:]
    scored = slot >= 0
    if fits:
        logits = model(**inputs).logits[:, -targets.shape[1] - 1 : -1]  # some models keep those of all tokens
        logps = -cross_entropy(logits[scored].float(), targets[scored], reduction="none")
    else:
        with scoring_head(whole.get_output_embeddings(), scored, targets[scored]):
            logps = model(**inputs).logits
    sums = summed(logps, slot[scored], batch["num_tokens"].numel(), exact=batch["input_ids"].shape[1] >= LONG)
    return sums.view_as(batch["num_tokens"])


def summed(logps: Tensor, slot: Tensor, number: int, exact: bool) -> Tensor:
    """(N,) -> (number,): the sums over the tokens of each response, added one by one. `exact`: in float64, and rounded
    once. In float32, a hundred roundings of a long response weigh more in a gradient than all others."""
    dtype = torch.float64 if exact else logps.dtype
    return logps.new_zeros(number, dtype=dtype).index_add(0, slot, logps.to(dtype)).to(logps.dtype)


def model_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model's forward pass reads of a batch of PreferenceCollator."""
    whole = unwrapped(model)
    known = inspect.signature(whole.forward).parameters
    inputs: dict[str, Any] = {name: values for name, values in batch.items() if name not in OWN and name in known}
    mask = near = attention_mask(batch["branch"])
    typed = types_among(inputs, whole.config)
    if typed:
        inputs[typed], blocks = types_and_blocks(batch, typed, whole.config.image_token_id)
        near = mask | ((blocks[:, None, :, None] == blocks[:, None, None, :]) & (blocks[:, None, :, None] > 0))
        mask = mask if typed == MM_TYPES else near  # Gemma 4's tokens see later ones in layers with a window alone
    windows = in_windows(mask, near, batch["position_ids"], whole.config.get_text_config())
    hands_down = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    if batch["branch"].amax() == 1 and not typed and reads_in_order(whole.config.get_text_config()):
        windows = (batch["branch"] != NOTHING).long()
    simple = windows is mask and not typed
    if mask.shape[-1] >= LONG and simple and hands_down and use_parts(whole.get_decoder()):
        inputs["pair_parts"] = parts_of(batch["branch"], batch["slot"].shape[1])
    return inputs | {
        "input_ids": batch["input_ids"],
        "attention_mask": windows,
        "position_ids": positions(whole, batch),
    }


def attention_mask(branch: Tensor) -> Tensor:
    """(R, 1, T, T): True if a token may attend to another: an earlier one of the prompt or of its own response, never
    padding."""
    query, key = branch[:, :, None], branch[:, None, :]
    back = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    allowed = back & ((key == PROMPT) | (key == query)) & (key != NOTHING)
    return (allowed | torch.eye(branch.shape[1], dtype=torch.bool, device=branch.device))[:, None]


def reads_in_order(config: Any) -> bool:
    """Whether some layers of a language model with this configuration are no usual attention. Such layers read a mask
    of padding, (R, T), and none of pairs of tokens."""
    return not {*(getattr(config, "layer_types", None) or ())} <= {"full_attention", "sliding_attention"}


def types_and_blocks(batch: Mapping[str, Tensor], name: str, image_token_id: int) -> tuple[Tensor, Tensor]:
    """Two tensors (R, T): the types of all tokens, and the blocks of tokens that all see each other, numbered from 1 in
    each row, with 0 outside of them.

    A block is an unbroken run of tokens of the type that an image has. Responses have the other type.
    """
    types, slot = batch[name], batch["slot"]
    of_image = types[batch["input_ids"] == image_token_id].amax()
    response = pad(slot >= 0, (types.shape[1] - slot.shape[1], 0))
    types = torch.where(response, 1 - of_image, types)
    inside = (types == of_image) & (batch["branch"] != NOTHING)
    begins = inside & ~pad(inside, (1, 0))[:, :-1]
    return types, torch.where(inside, begins.cumsum(1), 0)


def in_windows(mask: Tensor, near: Tensor, positions: Tensor, config: Any) -> Tensor | dict[str, Tensor]:
    """The mask for a language model with this configuration, which may have layers that see only the last tokens.
    `near`: what those layers would see without that limit."""
    window = getattr(config, "sliding_window", None)
    if window is not None and mask.shape[-1] > window:
        near = near & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    elif near is mask:
        return mask
    kinds = getattr(config, "layer_types", None)
    return near if kinds is None else {"full_attention": mask, "sliding_attention": near}


def positions(whole: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Position ids: (R, T), or (axes, R, T) if the model counts an image's rows and columns (m-RoPE).

    Its own rule gives those of a prompt and its first response. Other responses begin where the first one does.
    """
    in_line = batch["position_ids"]
    rule = getattr(whole.base_model, "get_rope_index", None)
    if rule is None:
        return in_line
    known = inspect.signature(rule).parameters
    given = {name: values for name, values in batch.items() if name not in OWN and name in known}
    first = (batch["branch"] == PROMPT) | (batch["branch"] == 1)
    given |= {"input_ids": batch["input_ids"], "attention_mask": first.long()}
    # One by one, because some rules, such as HunYuan-VL's, count the images of all rows of a batch.
    rows = [rule(**{name: values[row : row + 1] for name, values in given.items()})[0] for row in range(len(in_line))]
    found = torch.cat(rows, dim=-2)
    begin = in_line.shape[1] - batch["slot"].shape[1]
    further = found[..., begin : begin + 1] - in_line[:, begin : begin + 1]
    return torch.where(batch["branch"] > PROMPT, in_line + further, found)
