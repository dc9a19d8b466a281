"""ScienceQA-IMG: school questions with a picture, answered with an option's letter.

In: the published problems.json and pid_splits.json, and the folder of the test split's images, <problem>/image.png.
The test split's problems with an image are asked. Out: accuracy overall and per subject.

It asks as LLaVA-1.5 does: the hint as context, the question, the options, and a request for a letter. It scores as
LLaVA's script does: the answer is a letter, or begins with a letter and ". ", or says once "The answer is X". Any other
answer is wrong.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import LabelledQuestion, LlavaBenchmark, accuracies
from seva_ray.benchmarks.choices import LETTERS, ask_letter
from seva_ray.benchmarks.files import choice_at, image_at, items_at, object_at, read_json, text_at, unique
from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt

SPLIT = "test"
OPTIONS = LETTERS[:5]
SAID = re.compile(r"The answer is ([A-Z]).")


@dataclass(frozen=True, kw_only=True)
class ScienceQa(LlavaBenchmark[str]):
    """The test split's questions with an image."""

    kind: ClassVar[str] = "ScienceQa"
    short_name: ClassVar[str] = "scienceqa-img"

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        splits, problems = f"{self.path.rstrip('/')}/pid_splits.json", f"{self.path.rstrip('/')}/problems.json"
        known = read_json(problems, dict)
        asked = []
        for problem_id in items_at(read_json(splits, dict), SPLIT, splits):
            if str(problem_id) not in known:
                raise InputError(f"{splits}, {SPLIT}: {problem_id!r} is not in problems.json")
            where = f"{problems}, problem {problem_id}"
            row = object_at(known[str(problem_id)], where)
            if row.get("image"):
                asked.append((f"{splits}, {SPLIT}", str(problem_id), self._question(str(problem_id), row, where)))
        return list(unique(asked, "problem", f"{problems}, {SPLIT} split with images").values())

    @cached_property
    def groups(self) -> Sequence[str]:
        """The subjects."""
        return sorted({question.group for question in self.questions})

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        if self.protocol == "llava":
            return llava_letter(text or "") == question.label
        return vlmevalkit_letter(text or "", question.options) == question.label

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return accuracies("ScienceQA-IMG", sums, self.groups)

    def _question(self, problem_id: str, row: Mapping[str, Any], where: str) -> LabelledQuestion[str]:
        options = [text_at({"choices": option}, "choices", where) for option in items_at(row, "choices", where)]
        if not 2 <= len(options) <= len(OPTIONS):
            raise InputError(f"{where}, choices: expected 2 to {len(OPTIONS)}, got {len(options)}")
        context = text_at(row, "hint", where) if str(row.get("hint") or "").strip() else ""
        image = f"{problem_id}/{image_at(row, 'image', where)}"
        prompt = Prompt(
            prompt_id=problem_id,
            image_id=image,
            question=ask_letter(self.protocol, text_at(row, "question", where), options, context),
            source="scienceqa",
            image_path=image,
        )
        subject = text_at(row, "subject", where)
        letter = OPTIONS[choice_at(row, "answer", range(len(options)), where)]
        return LabelledQuestion(prompt=prompt, group=subject, label=letter, options=tuple(options))


def llava_letter(text: str) -> str | None:
    """The letter that an answer chooses by LLaVA's rule; None if it chooses no letter."""
    if text in tuple(OPTIONS):
        return text
    if text[:1] in tuple(OPTIONS) and text[1:3] == ". ":
        return text[0]
    said = SAID.findall(text)
    return said[0] if len(said) == 1 else None
