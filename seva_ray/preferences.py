"""Preferences -> the batch that TRL's DPOTrainer reads, with exact tokens.

TRL's own collator tokenises prompt and response apart and so loses BOS and EOS and adds stray spaces under LLaVA's
template. Here the prompt's ids are those that generation used, and a response's ids are those that the engine emitted.
Both responses are scored on the clean image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seva_ray.views import Viewer


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of one length, filled with `value` on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Rows of PREFERENCE_SCHEMA -> input_ids, attention_mask, completion_mask (2B, T) and pixel_values (2B, C, H, W).

    The first B rows are prompt + chosen, the last B prompt + rejected.
    """

    viewer: Viewer

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        prompts = [self.viewer.encoder.expand(self.viewer.encoder.prompt_ids(pair["question"])) for pair in pairs] * 2
        responses = [pair[side] for side in ("chosen_token_ids", "rejected_token_ids") for pair in pairs]
        both = list(zip(prompts, responses, strict=True))
        pixels = torch.stack([torch.from_numpy(self.viewer.pixels(pair)) for pair in pairs])
        return {
            "input_ids": pad([prompt + response for prompt, response in both], self.viewer.encoder.pad_id),
            "attention_mask": pad([[1] * (len(prompt) + len(response)) for prompt, response in both], 0),
            "completion_mask": pad([[0] * len(prompt) + [1] * len(response) for prompt, response in both], 0),
            "pixel_values": torch.cat([pixels, pixels]),
        }
