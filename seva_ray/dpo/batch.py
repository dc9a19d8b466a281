"""Pairs -> the batch that a model scores, with exact tokens.

The row of a prompt is the one that generation used, and the ids of a response are those that the engine emitted.
TRL's own tokenisation loses BOS and EOS and adds stray spaces under LLaVA's template. Every response is scored on the
clean image.

Two layouts give the same numbers. `plain` has one row per response, with the whole prompt. `packed` has one row per
pair,

    prompt[:-1] | last + chosen | last + rejected 1 | ... | last + rejected K

where `last` is the prompt's last token. The image and the question are computed once. Position ids restart after the
prompt, and a 4-D mask lets each response see only the prompt and itself. In both layouts the prompt is padded on the
left, so that the responses are at the end of every row, and logits are computed only there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seva_ray.vlm.rows import Row, stacked
from seva_ray.vlm.views import Viewer

PROMPT, NOTHING = 0, -1
"""Branches of a row: the prompt, and nothing (padding). The branches of its responses are 1, 2, ..."""

OWN = ("input_ids", "position_ids", "branch", "slot", "num_tokens", "view", "ref_logps", "weight")
"""Names of a batch's tensors that do not come from a prompt's row."""


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Rows of PAIR_SCHEMA -> tensors of R rows (packed: one per pair; plain: one per response) and T tokens.

    input_ids, position_ids, branch (R, T): tokens, their positions, and the part of the row that each belongs to.
    slot (R, L): for the last L tokens of a row, the index b * (1 + K) + k of the response that the token is part of,
    or -1. num_tokens (B, 1 + K): length of each response, 0 if there is none.
    The other arrays of the prompts' rows have their own names: those of the tokens as (R, T), with 0 for the responses;
    those of the images in order, such as pixel_values.
    If the pairs have these columns: ref_logps (B, 1 + K) and weight (B,).
    """

    viewer: Viewer
    packed: bool = True
    views: Sequence[str] = ()
    """Rejected views by which figures are split. The tensor `view` (B, K) is the index into it for each rejected
    response, or -1."""

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        responses = [responses_of(pair) for pair in pairs]
        width = max(map(len, responses))
        rows: list[tuple[Row, list[tuple[int, Sequence[int]]]]] = []
        for place, (pair, answers) in enumerate(zip(pairs, responses, strict=True)):
            prompt = self.viewer.row(pair)
            slots = [(place * width + number, answer) for number, answer in enumerate(answers)]
            rows += [(prompt, group) for group in ([slots] if self.packed else [[slot] for slot in slots])]
        features = stacked([prompt.features for prompt, _ in rows])
        batch = layout(rows, self.viewer.encoder.pad_id)
        batch |= {name: torch.from_numpy(values) for name, values in features.items()}
        batch["num_tokens"] = torch.tensor(
            [[len(answer) for answer in answers] + [0] * (width - len(answers)) for answers in responses]
        )
        if self.views:
            named = [[self.views.index(rejected["view"]) for rejected in pair["rejected"]] for pair in pairs]
            batch["view"] = torch.tensor([[*row, *[-1] * (width - 1 - len(row))] for row in named])
        if "ref_logps" in pairs[0]:
            references = [pair["ref_logps"] for pair in pairs]
            batch["ref_logps"] = torch.tensor([[*row, *[0.0] * (width - len(row))] for row in references])
        if "weight" in pairs[0]:
            batch["weight"] = torch.tensor([pair["weight"] for pair in pairs])
        return batch


def responses_of(pair: Mapping[str, Any]) -> list[Sequence[int]]:
    """Token ids of the chosen and of each rejected response."""
    return [pair["chosen_token_ids"], *(rejected["token_ids"] for rejected in pair["rejected"])]


def layout(rows: Sequence[tuple[Row, list[tuple[int, Sequence[int]]]]], pad_id: int) -> dict[str, Tensor]:
    """Rows of (prompt, [(slot, response), ...]) as tensors; see PreferenceCollator."""
    before = max(len(prompt.ids) - 1 for prompt, _ in rows)
    after = max(sum(1 + len(response) for _, response in responses) for _, responses in rows)
    shape = len(rows), before + after
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    branch, slot = torch.full(shape, NOTHING), torch.full((len(rows), after), -1)
    tokens = {name: torch.zeros(shape, dtype=torch.long) for name in rows[0][0].tokens}
    for row, (prompt, responses) in enumerate(rows):
        length = len(prompt.ids) - 1
        start = before - length
        ids[row, start:before] = torch.tensor(prompt.ids[:-1])
        positions[row, start:before] = torch.arange(length)
        branch[row, start:before] = PROMPT
        for name, values in tokens.items():
            values[row, start:before] = torch.from_numpy(prompt.tokens[name][:-1])
        end = before
        for number, (place, response) in enumerate(responses, 1):
            begin, end = end, end + 1 + len(response)
            ids[row, begin:end] = torch.tensor([prompt.ids[-1], *response])
            positions[row, begin:end] = torch.arange(length, length + end - begin)
            branch[row, begin:end] = number
            slot[row, begin + 1 - before : end - before] = place
            for name, values in tokens.items():
                values[row, begin] = int(prompt.tokens[name][-1])
    return {"input_ids": ids, "position_ids": positions, "branch": branch, "slot": slot, **tokens}
