"""POPE: is an object in the image? Three sets of yes/no questions about the same COCO images.

In: the published label files, JSON lines of {question_id, image, text, label}, and the COCO val2014 image folder.

Two protocols, whose numbers cannot be compared: `seva` asks the bare question and models answer in sentences; `llava`
adds LLaVA-1.5's request for a single word. Both read answers by the same rule, says_yes of yesno.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from seva_ray.benchmarks import yesno
from seva_ray.benchmarks.base import Tally, tally_of, text_of
from seva_ray.benchmarks.choices import SHORT_ANSWER
from seva_ray.benchmarks.files import (
    adjacent,
    choice_at,
    id_at,
    image_at,
    read_json_lines,
    settle_paths,
    text_at,
    unique,
)
from seva_ray.core.errors import ConfigError
from seva_ray.core.records import Prompt, Response


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a label file."""

    prompt: Prompt
    category: str
    label_yes: bool


@dataclass(frozen=True, kw_only=True)
class Pope:
    """The three POPE label files as one benchmark; a tally has one row per image over all three."""

    kind: ClassVar[str] = "Pope"

    path: str
    """Folder with coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json."""
    image_root: str
    """Folder or URI of the images; the label files name images relative to it."""
    protocol: Literal["seva", "llava"] = "seva"
    """Who asks: `seva` the bare question, `llava` with a line that requests a single word or phrase."""

    def __post_init__(self) -> None:
        settle_paths(self, "path", "image_root")
        if self.protocol not in ("seva", "llava"):
            raise ConfigError(f"protocol {self.protocol!r}: must be seva or llava")
        self.questions  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        """Says the protocol, so that numbers of both never stand in one column."""
        return f"pope-{self.protocol}"

    @cached_property
    def questions(self) -> list[Question]:
        return [
            question
            for category in yesno.CATEGORIES
            for question in self._read(f"{self.path.rstrip('/')}/coco_pope_{category}.json", category)
        ]

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(question.prompt for question in self.questions)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """The counts of every image; a question without a usable response counts as answered wrongly."""
        return tally_of(
            yesno.count_names(),
            ((question.prompt.image_id, count(question, responses)) for question in self.questions),
        )

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        return {question.prompt.prompt_id: yesno.is_right(count(question, responses)) for question in self.questions}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Accuracy, precision, recall, F1 and yes-ratio, per category and overall, in percent."""
        return yesno.metrics(sums)

    def _read(self, path: str, category: str) -> list[Question]:
        rows = (
            (where, id_at(row, "question_id", where), self._question(row, category, where))
            for where, row in read_json_lines(path)
        )
        return list(unique(rows, "question_id", path).values())

    def _question(self, row: Mapping[str, object], category: str, where: str) -> Question:
        image, text = image_at(row, "image", where), text_at(row, "text", where)
        prompt = Prompt(
            # Ids repeat between the files.
            prompt_id=f"{category}-{id_at(row, 'question_id', where)}",
            image_id=image,
            question=text if self.protocol == "seva" else f"{text}\n{SHORT_ANSWER}",
            source=f"pope_{category}",
            image_path=image,
        )
        label_yes = choice_at(row, "label", ("yes", "no"), where) == "yes"
        return Question(prompt=prompt, category=category, label_yes=label_yes)


def count(question: Question, responses: Mapping[str, Response]) -> dict[str, float]:
    text = text_of(responses, question.prompt.prompt_id)
    said_yes = yesno.says_yes(text) if text is not None else not question.label_yes
    return yesno.count(question.category, question.label_yes, said_yes)
