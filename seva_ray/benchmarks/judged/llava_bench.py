"""LLaVA-Bench (In-the-Wild): 60 open questions about 24 images; a judge rates each answer beside GPT-4's.

In: the published folder: questions.jsonl, context.jsonl (what is in each image, in words), answers_gpt4.jsonl, images/.
Out: the sum of the answers' ratings in percent of GPT-4's, over all questions and for each category. As published, both
answers are rated from 1 to 10, and GPT-4's comes first with the text of the file. Deviates: the judge prompt is our
own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.files import brief, choice_at, id_at, image_at, read_json_lines, text_at, unique
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

CATEGORIES = {"conv": "conversation", "detail": "detail", "complex": "complex reasoning"}
COUNTS = [f"{group}_{what}" for group in ("all", *CATEGORIES) for what in ("rating", "reference")]
INSTRUCTIONS = f"""\
Rate two answers to a question about an image. A description of what is in the image stands for it.
{TEXTS_ONLY}
Rate each answer from 1 to 10 by how helpful, relevant, accurate and detailed it is, all in one number; 10 is best. \
Details that the description contradicts count against an answer. Neither its length nor which answer stands first is \
a merit.
Explain your rating first. End with one line that has the rating of the first answer and then that of the second, of \
this form, and write no other line of this form:
Ratings: 1 1
"""


@dataclass(frozen=True, kw_only=True)
class LlavaBench(PublishedFolder):
    """The questions of LLaVA-Bench, judged with our own prompt."""

    kind: ClassVar[str] = "LlavaBench"
    short_name: ClassVar[str] = "llava-bench"
    instructions: ClassVar[str] = INSTRUCTIONS
    count_names: ClassVar[Sequence[str]] = COUNTS

    @cached_property
    def questions(self) -> dict[str, ReferencedQuestion]:
        return read_questions(self.path)

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        question = self.questions[prompt_id]
        return [JudgePrompt(text=beside(INSTRUCTIONS, question, question.reference, answer), num_marks=2)]

    def parse(self, verdict: str) -> Marks | None:
        rating = r"(10|[1-9](?:\.\d)?)"
        match = one_line(verdict, rf"Ratings: *{rating}(?: +| *, *){rating}")
        return (float(match[1]), float(match[2])) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        ((reference, rating),) = marks
        return by_group(self.questions[prompt_id].groups, rating=rating, reference=reference)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {"LLaVA-Bench": percent(sums["all_rating"], sums["all_reference"])}
        for category, spoken in CATEGORIES.items():
            named[f"LLaVA-Bench {spoken}"] = percent(sums[f"{category}_rating"], sums[f"{category}_reference"])
        return named


def beside(instructions: str, question: ReferencedQuestion, first: str, second: str) -> str:
    """The text of a judge prompt with two answers."""
    asked = question.prompt.question
    return judge_text(
        instructions, description=question.context, question=asked, first_answer=first, second_answer=second
    )


def read_questions(folder: str) -> dict[str, ReferencedQuestion]:
    """The questions by question_id. Raises: InputError, which names file, row and field."""
    contexts = {
        image_at(row, "image", where): context_of(row, where)
        for where, row in read_json_lines(f"{folder}/context.jsonl")
    }
    references = {
        id_at(row, "question_id", where): text_at(row, "text", where)
        for where, row in read_json_lines(f"{folder}/answers_gpt4.jsonl")
    }
    path = f"{folder}/questions.jsonl"

    def read() -> Iterator[tuple[str, str, ReferencedQuestion]]:
        for where, row in read_json_lines(path):
            prompt_id, image = id_at(row, "question_id", where), image_at(row, "image", where)
            if prompt_id not in references:
                raise InputError(f"{where}: {folder}/answers_gpt4.jsonl has no answer to question_id {prompt_id}")
            if image not in contexts:
                raise InputError(f"{where}: {folder}/context.jsonl has nothing about image {image}")
            prompt = Prompt(
                prompt_id=prompt_id,
                image_id=image,
                question=text_at(row, "text", where),
                source="llava_bench",
                image_path=image,
            )
            groups = ["all", choice_at(row, "category", CATEGORIES, where)]
            reference, context = references[prompt_id], contexts[image]
            yield (
                where,
                prompt_id,
                ReferencedQuestion(prompt=prompt, groups=groups, reference=reference, context=context),
            )

    return unique(read(), "question_id", path)


def context_of(row: Mapping[str, object], where: str) -> str:
    """What is in the image: the caption is one text or a list of texts."""
    caption = row.get("caption")
    lines = [caption] if isinstance(caption, str) else caption
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines) or not "".join(lines).strip():
        raise InputError(f"{where}, caption: expected text, got {brief(caption)}")
    return "\n".join(lines)
