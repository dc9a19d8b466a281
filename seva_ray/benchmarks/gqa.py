"""GQA: compositional questions about real images, with one short answer each.

In: the published testdev_balanced_questions.json, {question id: {question, answer, imageId, isBalanced, types}}, and
the folder of images, <imageId>.jpg. Out: accuracy, overall and of GQA's binary and open questions.

It asks as LLaVA-1.5 does, for a single word or phrase, or by another protocol of choices.py. It scores as GQA's script
does after LLaVA's conversion: the answer in lower case, without periods at its end, must equal the label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import LabelledQuestion, LlavaBenchmark, accuracies
from seva_ray.benchmarks.choices import ask_short
from seva_ray.benchmarks.files import image_at, object_at, read_json, text_at
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt


@dataclass(frozen=True, kw_only=True)
class Gqa(LlavaBenchmark[str]):
    """The questions of one balanced file."""

    kind: ClassVar[str] = "Gqa"
    short_name: ClassVar[str] = "gqa"

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        found = read_json(self.path, dict)
        if not found:
            raise InputError(f"{self.path}: has no questions")
        return [self._question(str(key), row, f"{self.path}, question {key}") for key, row in found.items()]

    @cached_property
    def groups(self) -> Sequence[str]:
        return ("binary", "open")

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        return (text or "").rstrip(".").lower() == question.label

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return accuracies("GQA", sums, self.groups)

    def _question(self, question_id: str, row: Any, where: str) -> LabelledQuestion[str]:
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
            question=ask_short(self.protocol, text_at(row, "question", where)),
            source="gqa",
            image_path=f"{image}.jpg",
        )
        group = "open" if structural == "query" else "binary"
        return LabelledQuestion(prompt=prompt, group=group, label=text_at(row, "answer", where))
