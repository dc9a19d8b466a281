"""MMHal-Bench: 96 questions that invite hallucination; a judge rates each answer from 0 to 6.

In: the published folder: response_template.json, a list of {question_type, question, gt_answer, image_content,
image_src}, and images/, which holds each image under the last part of its image_src. Out: the mean rating, and the
share of answers with a hallucination: as published, those rated below 3. Deviates: the judge prompt is our own and has
no examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.files import choice_at, image_at, items_at, object_at, read_json, text_at, unique
from seva_ray.benchmarks.judged.base import (
    TEXTS_ONLY,
    PublishedFolder,
    ReferencedQuestion,
    by_group,
    judge_text,
    one_line,
)
from seva_ray.benchmarks.judged.judgement import JudgePrompt, Marks
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
COUNTS = ["hallucinated", *(f"{group}_{what}" for group in ("all", *TYPES) for what in ("rating", "asked"))]
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
class MmHal(PublishedFolder):
    """The questions of MMHal-Bench, judged with our own prompt."""

    kind: ClassVar[str] = "MmHal"
    short_name: ClassVar[str] = "mmhal"
    instructions: ClassVar[str] = INSTRUCTIONS
    count_names: ClassVar[Sequence[str]] = COUNTS

    @cached_property
    def questions(self) -> dict[str, ReferencedQuestion]:
        path = f"{self.path}/response_template.json"
        rows = ((f"{path}, entry {number}", str(number), row) for number, row in enumerate(read_json(path, list)))
        return unique(
            ((where, key, self._question(key, object_at(row, where), where)) for where, key, row in rows), "entry", path
        )

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        question = self.questions[prompt_id]
        text = judge_text(
            INSTRUCTIONS,
            contents=question.context,
            question=question.prompt.question,
            reference=question.reference,
            answer=answer,
        )
        return [JudgePrompt(text=text)]

    def parse(self, verdict: str) -> Marks | None:
        match = one_line(verdict, r"Rating: *([0-6])")
        return (float(match[1]),) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        ((rating,),) = marks
        counts = by_group(self.questions[prompt_id].groups, rating=rating, asked=1.0)
        return counts | {"hallucinated": float(rating < HALLUCINATES_BELOW)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {"MMHal hallucination rate": percent(sums["hallucinated"], sums["all_asked"])}
        for group in ("all", *TYPES):
            rating = percent(sums[f"{group}_rating"], sums[f"{group}_asked"]) / 100
            named[f"MMHal {group} rating (0-6)".replace(" all", "")] = rating
        return named

    def _question(self, key: str, row: Mapping[str, Any], where: str) -> ReferencedQuestion:
        contents = items_at(row, "image_content", where)
        if not all(isinstance(item, str) for item in contents):
            raise InputError(f"{where}, image_content: expected a list of texts")
        image = image_at({"image_src": text_at(row, "image_src", where).rpartition("/")[2]}, "image_src", where)
        return ReferencedQuestion(
            prompt=Prompt(
                prompt_id=key,
                image_id=image,
                question=text_at(row, "question", where),
                source="mmhal",
                image_path=image,
            ),
            groups=["all", choice_at(row, "question_type", TYPES, where)],
            context=", ".join(contents),
            reference=text_at(row, "gt_answer", where),
        )
