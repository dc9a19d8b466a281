"""MMHal-Bench: 96 questions that invite hallucination; a judge rates each answer from 0 to 6.

In: the published folder: response_template.json, a list of {question_type, question, gt_answer, image_content,
image_src}, and images/, which holds each image under the last part of its image_src. Out: the mean rating, and the
share of answers with a hallucination: as published, those rated below 3. Not as published: the judge prompt, which is
our own and has no examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.files import (
    adjacent,
    choice_at,
    image_at,
    items_at,
    object_at,
    read_json,
    settle_paths,
    text_at,
    unique,
)
from seva_ray.benchmarks.judged.base import OWN_PROMPT, TEXTS_ONLY, one_line, tagged
from seva_ray.benchmarks.judged.judgement import JudgePrompt, Marks
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
HALLUCINATES_BELOW = 3
INSTRUCTIONS = f"""\
Rate an answer to a question about an image: how informative it is, and whether it hallucinates. A list of what is in \
the image and a person's answer to the same question stand for the image; the list is not complete.
{TEXTS_ONLY}
An answer hallucinates where it states something about the image that is false, or that neither the list nor the \
person's answer bears out. What follows from general knowledge is no hallucination. The ratings:
6: no hallucination, very informative, with further good reasoning
5: no hallucination, very informative
4: no hallucination, somewhat informative
3: no hallucination, not informative
2: hallucination, very informative
1: hallucination, somewhat informative
0: hallucination, not informative
Explain your rating first. End with one line of this form, and write no other line of this form:
Rating: 0
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One entry of the file."""

    prompt: Prompt
    kind: str
    contents: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class MmHal:
    """The questions of MMHal-Bench, judged with our own prompt."""

    kind: ClassVar[str] = "MmHal"

    path: str
    """Folder with response_template.json and images/."""

    def __post_init__(self) -> None:
        settle_paths(self, "path")
        assert self.questions  # A wrong file is found here, before a model answers anything.

    @property
    def name(self) -> str:
        return f"mmhal-{OWN_PROMPT}"

    @property
    def protocol(self) -> str:
        return OWN_PROMPT

    @property
    def image_root(self) -> str:
        return f"{self.path}/images"

    @property
    def instructions(self) -> str:
        return INSTRUCTIONS

    @property
    def count_names(self) -> Sequence[str]:
        return ["hallucinated", *(f"{group}_{what}" for group in ("all", *TYPES) for what in ("rating", "asked"))]

    @cached_property
    def questions(self) -> dict[str, Question]:
        path = f"{self.path}/response_template.json"
        rows = ((f"{path}, entry {number}", str(number), row) for number, row in enumerate(read_json(path, list)))
        return unique(
            ((where, key, question_of(key, object_at(row, where), where)) for where, key, row in rows), "entry", path
        )

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(question.prompt for question in self.questions.values())

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        question = self.questions[prompt_id]
        texts = {
            "contents": question.contents,
            "question": question.prompt.question,
            "reference": question.reference,
            "answer": answer,
        }
        return [JudgePrompt(text="\n".join([INSTRUCTIONS, *(tagged(tag, text) for tag, text in texts.items())]))]

    def parse(self, verdict: str) -> Marks | None:
        match = one_line(verdict, r"Rating: *([0-6])")
        return (float(match[1]),) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        ((rating,),) = marks
        groups = ("all", self.questions[prompt_id].kind)
        counts = {f"{group}_rating": rating for group in groups} | {f"{group}_asked": 1.0 for group in groups}
        return counts | {"hallucinated": float(rating < HALLUCINATES_BELOW)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {"MMHal hallucination rate": percent(sums["hallucinated"], sums["all_asked"])}
        for group in ("all", *TYPES):
            rating = percent(sums[f"{group}_rating"], sums[f"{group}_asked"]) / 100
            named[f"MMHal {group} rating (0-6)".replace(" all", "")] = rating
        return named


def question_of(key: str, row: Mapping[str, Any], where: str) -> Question:
    contents = items_at(row, "image_content", where)
    if not all(isinstance(item, str) for item in contents):
        raise InputError(f"{where}, image_content: expected a list of texts")
    image = image_at({"image_src": text_at(row, "image_src", where).rpartition("/")[2]}, "image_src", where)
    return Question(
        prompt=Prompt(
            prompt_id=key,
            image_id=image,
            question=text_at(row, "question", where),
            source="mmhal",
            image_path=image,
        ),
        kind=choice_at(row, "question_type", TYPES, where),
        contents=", ".join(contents),
        reference=text_at(row, "gt_answer", where),
    )
