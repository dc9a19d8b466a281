"""Pairs -> the batch that a model scores, with exact tokens.

The row of a prompt is the one that generation used, and the ids of a response are those that the engine emitted.
TRL's own tokenisation loses BOS and EOS and adds stray spaces under LLaVA's template. Every response is scored on the
clean image.

Two layouts give the same numbers. `plain` has one row per response, with the whole prompt. `packed` has one row per
pair,

    prompt[:-1] | last + chosen | last + rejected 1 | ... | last + rejected K

where `last` is the prompt's last token. The image and the question are computed once. Position ids restart after the
prompt, and a 4-D mask lets each response see only the prompt and itself.

If the questions of several pairs are about one image, a packed row may hold all of them: what their prompts have in
common, which includes the image, and then the rest of a prompt before each of its responses. In all layouts the common
part is padded on the left, so that the responses are at the end of every row, and logits are computed only there.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
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
class Branch:
    """A response in a row."""

    slot: int
    """Index b * (1 + K) + k of the response k of the pair b."""
    prompt: Row
    response: Sequence[int]
    """Its token ids."""


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Rows of PAIR_SCHEMA -> tensors of R rows (packed: one per pair or image; plain: one per response) and T tokens.

    input_ids, position_ids, branch (R, T): tokens, their positions, and the part of the row that each belongs to.
    slot (R, L): for the last L tokens of a row, the index b * (1 + K) + k of the response that the token is part of,
    or -1. num_tokens (B, 1 + K): length of each response, 0 if there is none.
    The other arrays of the prompts' rows have their own names: those of the tokens as (R, T), with 0 for the responses;
    those of the images in order, such as pixel_values.
    If the pairs have these columns: ref_logps (B, 1 + K) and weight (B,).
    """

    viewer: Viewer
    packed: bool = True
    by_image: bool = False
    """In the packed layout, one row for all pairs of the batch that have the same image."""
    views: Sequence[str] = ()
    """Rejected views by which figures are split. The tensor `view` (B, K) is the index into it for each rejected
    response, or -1."""

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        responses = [responses_of(pair) for pair in pairs]
        width = max(map(len, responses))
        rows: dict[Hashable, list[Branch]] = {}
        for place, (pair, answers) in enumerate(zip(pairs, responses, strict=True)):
            prompt = self.viewer.row(pair)
            for number, answer in enumerate(answers):
                branch = Branch(slot=place * width + number, prompt=prompt, response=answer)
                rows.setdefault(self.row_of(pair, place, number), []).append(branch)
        branches = [part for row in rows.values() for part in self.with_whole_image(row)]
        features = stacked([row[0].prompt.features for row in branches], self.viewer.encoder.axes)
        batch = layout(branches, self.viewer.encoder.pad_id)
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

    def row_of(self, pair: Mapping[str, Any], place: int, number: int) -> Hashable:
        """What the responses of one row have in common."""
        if not self.packed:
            return place, number
        return (pair["image_path"], pair["image_bytes"]) if self.by_image else place

    def with_whole_image(self, row: list[Branch]) -> Iterable[list[Branch]]:
        """The row, or one for each prompt if the image comes after the first token in which the prompts differ."""
        prompt, image = row[0].prompt, self.viewer.encoder.image_token_id
        if list(prompt.ids[: num_common(row)]).count(image) == prompt.num_image_tokens:
            return [row]
        of_prompt: dict[int, list[Branch]] = {}
        for branch in row:
            of_prompt.setdefault(id(branch.prompt), []).append(branch)
        return of_prompt.values()


def responses_of(pair: Mapping[str, Any]) -> list[Sequence[int]]:
    """Token ids of the chosen and of each rejected response."""
    return [pair["chosen_token_ids"], *(rejected["token_ids"] for rejected in pair["rejected"])]


def num_common(row: Sequence[Branch]) -> int:
    """The number of tokens at the start of all prompts of a row, without a last token of any of them."""
    prompts = {id(branch.prompt): branch.prompt.ids[:-1] for branch in row}.values()
    in_all = zip(*prompts, strict=False)
    return next((number for number, ids in enumerate(in_all) if len({*ids}) > 1), min(map(len, prompts)))


def layout(rows: Sequence[Sequence[Branch]], pad_id: int) -> dict[str, Tensor]:
    """Rows of responses, each with the prompt that it answers, as tensors; see PreferenceCollator."""
    common = [num_common(row) for row in rows]
    sizes = [
        [len(branch.prompt.ids) - length + len(branch.response) for branch in row]
        for row, length in zip(rows, common, strict=True)
    ]
    before, after = max(common), max(map(sum, sizes))
    shape = len(rows), before + after
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    branch, slot = torch.full(shape, NOTHING), torch.full((len(rows), after), -1)
    tokens = {name: torch.zeros(shape, dtype=torch.long) for name in rows[0][0].prompt.tokens}
    for row, (responses, length) in enumerate(zip(rows, common, strict=True)):
        prompt, start, end = responses[0].prompt, before - length, before
        ids[row, start:before] = torch.tensor(prompt.ids[:length])
        positions[row, start:before] = torch.arange(length)
        branch[row, start:before] = PROMPT
        for name, values in tokens.items():
            values[row, start:before] = torch.from_numpy(prompt.tokens[name][:length])
        for number, (part, size) in enumerate(zip(responses, sizes[row], strict=True), 1):
            begin, end = end, end + size
            rest = part.prompt.ids[length:]
            ids[row, begin:end] = torch.tensor([*rest, *part.response])
            positions[row, begin:end] = torch.arange(length, length + size)
            branch[row, begin:end] = number
            slot[row, begin + len(rest) - before : end - before] = part.slot
            for name, values in tokens.items():
                values[row, begin : begin + len(rest)] = torch.from_numpy(part.prompt.tokens[name][length:])
    return {"input_ids": ids, "position_ids": positions, "branch": branch, "slot": slot, **tokens}
