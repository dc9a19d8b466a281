"""ScienceQA-IMG: school questions with a picture, answered with an option's letter.

In: the published problems.json and pid_splits.json, of which the test split's problems with an image are asked; and the
folder of that split's images, <problem>/image.png. Out: accuracy overall and per subject.

Asked as LLaVA-1.5 does: the hint as context, question, options, request for a letter. Scored as LLaVA's
script does: the answer is a letter, or begins with one and ". ", or says once "The answer is X"; anything else is
wrong.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from seva_ray.benchmarks.base import Tally, accuracies, is_right, tally_of, text_of
from seva_ray.benchmarks.choices import LETTERS, ask
from seva_ray.benchmarks.files import choice_at, image_at, items_at, object_at, read_json, settle_paths, text_at, unique
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt, Response

SPLIT = "test"
OPTIONS = LETTERS[:5]
SAID = re.compile(r"The answer is ([A-Z]).")


@dataclass(frozen=True, kw_only=True)
class Question:
    prompt: Prompt
    subject: str
    num_options: int
    answer: str
    """A letter."""


@dataclass(frozen=True, kw_only=True)
class ScienceQa:
    """The test split's questions with an image."""

    kind: ClassVar[str] = "ScienceQa"

    path: str
    """Folder with problems.json and pid_splits.json."""
    image_root: str
    """The test split's images: images/test of the published layout."""
    protocol: Literal["llava"] = "llava"
    """Whose way of asking and scoring this is; part of the recipe."""

    def __post_init__(self) -> None:
        settle_paths(self, "path", "image_root")
        self.questions  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        return f"scienceqa-img-{self.protocol}"

    @cached_property
    def questions(self) -> list[Question]:
        splits, problems = f"{self.path.rstrip('/')}/pid_splits.json", f"{self.path.rstrip('/')}/problems.json"
        known = read_json(problems, dict)
        asked = []
        for problem_id in items_at(read_json(splits, dict), SPLIT, splits):
            if str(problem_id) not in known:
                raise InputError(f"{splits}, {SPLIT}: {problem_id!r} is not in problems.json")
            where = f"{problems}, problem {problem_id}"
            row = object_at(known[str(problem_id)], where)
            if row.get("image"):
                asked.append((f"{splits}, {SPLIT}", str(problem_id), question_of(str(problem_id), row, where)))
        return list(unique(asked, "problem", f"{problems}, {SPLIT} split with images").values())

    def prompts(self) -> Iterator[Prompt]:
        """Every question has an image of its own."""
        yield from (question.prompt for question in self.questions)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        names = [f"{subject}_{what}" for subject in self.subjects for what in ("right", "asked")]
        return tally_of(names, (count(question, responses) for question in self.questions))

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        return {question.prompt.prompt_id: is_right(count(question, responses)[1]) for question in self.questions}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return accuracies("ScienceQA-IMG", sums, self.subjects)

    @cached_property
    def subjects(self) -> list[str]:
        return sorted({question.subject for question in self.questions})


def question_of(problem_id: str, row: Mapping[str, Any], where: str) -> Question:
    options = [text_at({"choices": option}, "choices", where) for option in items_at(row, "choices", where)]
    if not 2 <= len(options) <= len(OPTIONS):
        raise InputError(f"{where}, choices: expected 2 to {len(OPTIONS)}, got {len(options)}")
    question = text_at(row, "question", where)
    if str(row.get("hint") or "").strip():
        question = f"Context: {text_at(row, 'hint', where)}\n{question}"
    image = f"{problem_id}/{image_at(row, 'image', where)}"
    prompt = Prompt(
        prompt_id=problem_id,
        image_id=image,
        question=ask(question, options),
        source="scienceqa",
        image_path=image,
    )
    return Question(
        prompt=prompt,
        subject=text_at(row, "subject", where),
        num_options=len(options),
        answer=OPTIONS[choice_at(row, "answer", range(len(options)), where)],
    )


def letter_in(text: str) -> str | None:
    """The letter that an answer chooses by LLaVA's rule, or None."""
    if text in tuple(OPTIONS):
        return text
    if text[:1] in tuple(OPTIONS) and text[1:3] == ". ":
        return text[0]
    said = SAID.findall(text)
    return said[0] if len(said) == 1 else None


def count(question: Question, responses: Mapping[str, Response]) -> tuple[str, dict[str, float]]:
    right = letter_in(text_of(responses, question.prompt.prompt_id) or "") == question.answer
    counts = {f"{question.subject}_asked": 1.0, f"{question.subject}_right": float(right)}
    return question.prompt.image_id, counts
