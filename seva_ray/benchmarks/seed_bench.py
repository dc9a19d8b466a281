"""SEED-Bench, its image part: multiple-choice questions of nine dimensions, answered with a letter.

In: the published SEED-Bench.json (version 1), whose image questions have data_type `image` and a question_type_id of 1
to 9, and the folder SEED-Bench-image, where the name of an image's file is its data_id. Out: accuracy over all image
questions and per dimension.

It asks as LLaVA-1.5 does, and scores as LLaVA's script does: the answer must be the letter and nothing else. By another
protocol of choices.py, an answer's letter is found by the rules of VLMEvalKit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import LabelledQuestion, LlavaBenchmark, accuracies
from seva_ray.benchmarks.choices import LETTERS, ask_letter
from seva_ray.benchmarks.files import choice_at, id_at, image_at, items_at, object_at, read_json, text_at, unique
from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt

IMAGE_DIMENSIONS = tuple("123456789")
"""Question types 10 to 12 are about videos."""


@dataclass(frozen=True, kw_only=True)
class SeedBench(LlavaBenchmark[str]):
    """The image questions of SEED-Bench."""

    kind: ClassVar[str] = "SeedBench"
    short_name: ClassVar[str] = "seed-image"

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        found = read_json(self.path, dict)
        types = object_at(found.get("question_type"), f"{self.path}, question_type")
        dimensions = {str(number): name for name, number in types.items()}
        asked = []
        for number, row in enumerate(items_at(found, "questions", self.path), start=1):
            where = f"{self.path}, question {number}"
            if choice_at(object_at(row, where), "data_type", ("image", "video"), where) == "image":
                asked.append((where, id_at(row, "question_id", where), self._question(row, dimensions, where)))
        return list(unique(asked, "question_id", f"{self.path}, data_type image").values())

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        letter = text if self.protocol == "llava" else vlmevalkit_letter(text or "", question.options)
        return letter == question.label

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return accuracies("SEED-Image", sums, self.groups)

    def _question(self, row: Mapping[str, Any], dimensions: Mapping[str, str], where: str) -> LabelledQuestion[str]:
        number = id_at(row, "question_type_id", where)
        if number not in IMAGE_DIMENSIONS or number not in dimensions:
            raise InputError(f"{where}, question_type_id: {number} is not one of the image dimensions in question_type")
        image = image_at(row, "data_id", where)
        options = [id_at(row, f"choice_{letter}", where) for letter in "abcd"]
        prompt = Prompt(
            prompt_id=id_at(row, "question_id", where),
            image_id=image,
            question=ask_letter(self.protocol, text_at(row, "question", where), options),
            source=f"seed_{number}",
            image_path=image,
        )
        letter = choice_at(row, "answer", LETTERS[: len(options)], where)
        return LabelledQuestion(prompt=prompt, group=dimensions[number], label=letter, options=tuple(options))
