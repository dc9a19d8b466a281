"""Preference data made elsewhere: a question about an image, a chosen and a rejected answer.

In: rows in the form of TRL (prompt, chosen, rejected; or chosen and rejected as whole conversations), LLaMA-Factory,
ms-swift (messages, rejected_response), RLHF-V, RLAIF-V, POVID, LLaVA-RLHF, MMPR, or the official SeVa JSON (question,
image_id, chosen, reject), in every file that `source:hf` reads. Out: one prompt for each row, and its two answers.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt
from seva_ray.sources.base import failed
from seva_ray.sources.forms import ASSISTANTS, NoColumn, as_list, cleaned, flat, named, role_of, spelled, text_of
from seva_ray.sources.hf import KEYS, Hf

CHOSEN = ("chosen", "messages", "conversations")
"""Columns that may hold the chosen answer. In conversations it is the last turn."""

REJECTED = ("rejected", "reject", "rejected_response", "rejected_messages", "rejected_conversations")
"""Columns that may hold the rejected answer."""

OTHER_IMAGES = ("rejected_images", "rejected_image")
"""Columns with another image for the rejected answer (mDPO, ms-swift)."""


@dataclass(frozen=True, kw_only=True)
class Preferences(Hf):
    """Rows with a chosen and a rejected answer. Every row is one prompt, also if it cannot be used."""

    kind: ClassVar[str] = "Preferences"
    keys: ClassVar[tuple[str, ...]] = (*KEYS, "chosen", "rejected")
    option: ClassVar[str] = "--data"

    source: str = "imported"
    """The source of all rows if no column `source` is named."""

    def answers(self) -> Iterator[tuple[str, str, str | None]]:
        """For each row, in the order of the prompts: the chosen and the rejected answer, and why there are none, or
        None."""
        for row in self._rows():
            try:
                yield *answers_of(row, self.columns), None
            except InputError as error:
                yield "", "", str(error)

    def of_row(self, row: Any, number: str) -> Iterator[Prompt]:
        given = row
        if isinstance(row, Mapping):
            row = as_asked(row)
        found = list(super().of_row(row, number))
        if len(found) > 1:
            error = f"row {number}: has {len(found)} questions; rows with one question are read"
            yield failed(number, error, self.source)
            return
        try:
            answers_of(row, self.columns)
        except InputError as error:
            more = self.advice(given, row) if isinstance(error, NoColumn) else ""
            yield replace(found[0], error=found[0].error or f"row {number}: {error}{more}")
            return
        yield from found


def as_asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its question, image and answers under names that are recognised.

    The official JSON names the image's file `image_id`. In TRL's form without `prompt`, the question is in the chosen
    conversation. RLHF-V has question and answers as JSON in the column `text`. LLaVA-RLHF has two answers, and the
    number of the better one.
    """
    row = flat(row)
    if isinstance(text := row.get("text"), str) and text.lstrip().startswith("{") and not row.keys() & {*CHOSEN}:
        row |= object_in(text)
    if row.get("preference") in (1, 2) and {"output_1", "output_2"} <= row.keys():
        better = row["preference"]
        row |= {"chosen": row[f"output_{better}"], "rejected": row[f"output_{3 - better}"]}
    if "image_id" in row and "reject" in row:
        row["image"] = row.get("image") or row["image_id"]
    chosen = row.get("chosen")
    asked = {"prompt", "messages", "conversations", "question", "query"} & row.keys()
    if isinstance(chosen, list) and not asked:
        row["messages"] = chosen
    return row


def object_in(text: str) -> dict[str, Any]:
    """The fields of a JSON object, without empty ones; none if the text is no JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return flat(value) if isinstance(value, dict) else {}


def answers_of(row: Any, columns: Mapping[str, str]) -> tuple[str, str]:
    """The chosen and the rejected answer of a row. Raises: InputError if it has not both, or if they answer different
    questions or images."""
    if not isinstance(row, Mapping):
        raise InputError("must be an object with a chosen and a rejected answer")
    row = as_asked(row)
    chosen, rejected = side_of(row, columns, "chosen", CHOSEN), side_of(row, columns, "rejected", REJECTED)
    of_chosen, of_rejected = questions_in(chosen), questions_in(rejected)
    if of_chosen and of_rejected and of_chosen != of_rejected:
        raise InputError("the chosen and the rejected conversation ask different questions")
    for name in OTHER_IMAGES:
        if name in row and row[name] not in (row.get("images"), row.get("image")):
            raise InputError(f"column {name!r}: has another image for the rejected answer, which is not read")
    return answer_in(chosen, "chosen"), answer_in(rejected, "rejected")


def side_of(row: Mapping[str, Any], columns: Mapping[str, str], what: str, names: tuple[str, ...]) -> Any:
    """What the row has as chosen, or as rejected: a text, a turn, or a conversation."""
    value = named(row, columns, what)
    if value is None:
        value = next((row[name] for name in spelled(row, names)), None)
    if value is None:
        raise NoColumn(f"no column with the {what} answer ({', '.join(names)})")
    turns = as_list(value) if not isinstance(value, list) else value
    return turns if turns and isinstance(turns[0], Mapping) else value


def questions_in(side: Any) -> list[str]:
    """The user's turns in a conversation; none in another value."""
    turns = [turn for turn in side if isinstance(turn, Mapping)] if isinstance(side, list) else []
    return [cleaned(text_of(turn)) for turn in turns if role_of(turn) not in (*ASSISTANTS, "system")]


def answer_in(side: Any, what: str) -> str:
    """An answer: a text, a turn, or the last turn of a conversation."""
    if isinstance(side, list) and len(side) > 1 and isinstance(side[0], str):
        raise InputError(f"has {len(side)} {what} answers; rows with one are read")
    turn = side[-1] if isinstance(side, list) and side else side
    if isinstance(turn, Mapping):
        if isinstance(side, list) and role_of(turn) not in ASSISTANTS:
            raise InputError(f"the {what} conversation does not end with an answer")
        turn = text_of(turn)
    if not isinstance(turn, str):
        raise InputError(f"the {what} answer is not a text")
    return turn.strip()
