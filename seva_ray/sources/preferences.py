"""Preference data made elsewhere: a question about an image, a chosen and a rejected answer.

In: rows in the form of TRL (prompt, chosen, rejected; or chosen and rejected as whole conversations), LLaMA-Factory,
ms-swift (messages, rejected_response) or the official SeVa JSON (question, image_id, chosen, reject), in every file
that `source:hf` reads. Out: one prompt for each row, and its two answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt
from seva_ray.sources.base import failed
from seva_ray.sources.forms import ASSISTANTS, flat, role_of, text_of
from seva_ray.sources.hf import Hf

CHOSEN = ("chosen", "messages", "conversations")
"""Columns that may hold the chosen answer. In conversations it is the last turn."""

REJECTED = ("rejected", "reject", "rejected_response", "rejected_messages")
"""Columns that may hold the rejected answer."""


@dataclass(frozen=True, kw_only=True)
class Preferences(Hf):
    """Rows with a chosen and a rejected answer. Every row is one prompt, also if it cannot be used."""

    kind: ClassVar[str] = "Preferences"

    source: str = "imported"
    """The source of all rows if no column `source` is named."""

    def answers(self) -> Iterator[tuple[str, str, str | None]]:
        """For each row, in the order of the prompts: the chosen and the rejected answer, and why there are none, or
        None."""
        for row in self._rows():
            try:
                yield *answers_of(row), None
            except InputError as error:
                yield "", "", str(error)

    def of_row(self, row: Any, number: str) -> Iterator[Prompt]:
        if isinstance(row, Mapping):
            row = as_asked(row)
        found = list(super().of_row(row, number))
        if len(found) > 1:
            error = f"row {number}: has {len(found)} questions; rows with one question are read"
            yield failed(number, error, self.source)
            return
        try:
            answers_of(row)
        except InputError as error:
            yield replace(found[0], error=found[0].error or f"row {number}: {error}")
            return
        yield from found


def as_asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its question and image under names that are recognised: the official JSON names the image's file
    `image_id`, and in TRL's form without `prompt` the question is in the chosen conversation."""
    row = flat(row)
    if "image_id" in row and "reject" in row:
        row["image"] = row.get("image") or row["image_id"]
    chosen = row.get("chosen")
    asked = {"prompt", "messages", "conversations", "question", "query"} & row.keys()
    if isinstance(chosen, list) and not asked:
        row["messages"] = chosen
    return row


def answers_of(row: Any) -> tuple[str, str]:
    """The chosen and the rejected answer of a row. Raises: InputError if it has not both."""
    if not isinstance(row, Mapping):
        raise InputError("must be an object with a chosen and a rejected answer")
    return answer_in(row, CHOSEN, "chosen"), answer_in(row, REJECTED, "rejected")


def answer_in(row: Mapping[str, Any], names: tuple[str, ...], what: str) -> str:
    """An answer: a text, a turn, or the last turn of a conversation."""
    row = flat(row)
    value = next((row[name] for name in names if name in row), None)
    if value is None:
        raise InputError(f"no column with the {what} answer ({', '.join(names)}); the row has {', '.join(row)}")
    turn = value[-1] if isinstance(value, list) else value
    if isinstance(turn, Mapping):
        if isinstance(value, list) and role_of(turn) not in ASSISTANTS:
            raise InputError(f"the {what} conversation does not end with an answer")
        turn = text_of(turn)
    if not isinstance(turn, str):
        raise InputError(f"the {what} answer is not a text")
    return turn.strip()
