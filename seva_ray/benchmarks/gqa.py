"""GQA: compositional questions about real images, with one short answer each.

In: the published testdev_balanced_questions.json, {question id: {question, answer, imageId, isBalanced, types}}, and
the folder of images, <imageId>.jpg. Out: accuracy, overall and of GQA's binary and open questions.

Asked as LLaVA-1.5 does, for a single word or phrase. Scored as GQA's script does after LLaVA's conversion: the answer
in lower case, without periods at its end, must equal the label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from seva_ray.benchmarks.base import Tally, accuracies, is_right, tally_of, text_of
from seva_ray.benchmarks.choices import SHORT_ANSWER, ask
from seva_ray.benchmarks.files import adjacent, image_at, object_at, read_json, settle_paths, text_at
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt, Response

KINDS = ("binary", "open")


@dataclass(frozen=True, kw_only=True)
class Question:
    prompt: Prompt
    kind: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Gqa:
    """All questions of one balanced file."""

    kind: ClassVar[str] = "Gqa"

    path: str
    """testdev_balanced_questions.json."""
    image_root: str
    """Folder of GQA's images."""
    protocol: Literal["llava"] = "llava"
    """Whose way of asking and scoring this is; part of the recipe."""

    def __post_init__(self) -> None:
        settle_paths(self, "path", "image_root")
        self.questions  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        return f"gqa-{self.protocol}"

    @cached_property
    def questions(self) -> list[Question]:
        found = read_json(self.path, dict)
        if not found:
            raise InputError(f"{self.path}: has no questions")
        return [question_of(str(key), row, f"{self.path}, question {key}") for key, row in found.items()]

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(question.prompt for question in self.questions)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        names = [f"{kind}_{what}" for kind in KINDS for what in ("right", "asked")]
        return tally_of(names, (count(question, responses) for question in self.questions))

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        return {question.prompt.prompt_id: is_right(count(question, responses)[1]) for question in self.questions}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return accuracies("GQA", sums, KINDS)


def question_of(question_id: str, row: Any, where: str) -> Question:
    row = object_at(row, where)
    if row.get("isBalanced") is not True:
        raise InputError(
            f"{where}, isBalanced: expected true, as all questions of testdev_balanced_questions.json have"
        )
    structural = text_at(object_at(row.get("types"), f"{where}, types"), "structural", f"{where}, types")
    image = image_at(row, "imageId", where)
    prompt = Prompt(
        prompt_id=question_id,
        image_id=image,
        question=ask(text_at(row, "question", where), [], SHORT_ANSWER),
        source="gqa",
        image_path=f"{image}.jpg",
    )
    kind = "open" if structural == "query" else "binary"
    return Question(prompt=prompt, kind=kind, answer=text_at(row, "answer", where))


def count(question: Question, responses: Mapping[str, Response]) -> tuple[str, dict[str, float]]:
    text = text_of(responses, question.prompt.prompt_id) or ""
    right = text.rstrip(".").lower() == question.answer
    return question.prompt.image_id, {f"{question.kind}_asked": 1.0, f"{question.kind}_right": float(right)}
