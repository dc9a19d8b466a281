"""MM-Vet: open questions that need several abilities at once; a judge scores each answer against a short reference.

In: the published folder: mm-vet.json, {id: {imagename, question, answer, capability}}, and images/. Out: the mean score
over all questions and over those that need each ability. As published, an answer gets 0.0 to 1.0 in steps of 0.1, and
<AND> and <OR> join parts of the reference. Not as published: the judge prompt, which is our own and has no examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.files import (
    adjacent,
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

ABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
INSTRUCTIONS = f"""\
Score how far an answer to a question about an image agrees with a reference answer.
{TEXTS_ONLY}
The score is 0.0 (wrong), 1.0 (fully right), or one of the tenths between them for what is partly right. In the \
reference, <AND> joins parts that must all be in the answer, each worth its share of the score, and <OR> joins \
alternatives of which one is enough. Other words for the same are as good. Further words in the answer cost nothing \
where they do not contradict the reference; an answer that names several possibilities to be safe is not fully right.
End with one line of this form, and write no other line of this form:
Score: 0.0
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One entry of the file."""

    prompt: Prompt
    reference: str
    abilities: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class MmVet:
    """The questions of MM-Vet, judged with our own prompt."""

    kind: ClassVar[str] = "MmVet"

    path: str
    """Folder with mm-vet.json and images/."""

    def __post_init__(self) -> None:
        settle_paths(self, "path")
        assert self.questions  # A wrong file is found here, before a model answers anything.

    @property
    def name(self) -> str:
        return f"mm-vet-{OWN_PROMPT}"

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
        return [f"{group}_{what}" for group in ("all", *ABILITIES) for what in ("score", "asked")]

    @cached_property
    def questions(self) -> dict[str, Question]:
        path = f"{self.path}/mm-vet.json"
        return unique(
            (
                (f"{path}, {key}", key, question_of(key, object_at(row, f"{path}, {key}"), f"{path}, {key}"))
                for key, row in read_json(path, dict).items()
            ),
            "id",
            path,
        )

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(question.prompt for question in self.questions.values())

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        question = self.questions[prompt_id]
        texts = {"question": question.prompt.question, "reference": question.reference, "answer": answer}
        return [JudgePrompt(text="\n".join([INSTRUCTIONS, *(tagged(tag, text) for tag, text in texts.items())]))]

    def parse(self, verdict: str) -> Marks | None:
        match = one_line(verdict, r"Score: *(0(?:\.\d)?|1(?:\.0)?)")
        return (float(match[1]),) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        groups = ("all", *self.questions[prompt_id].abilities)
        ((score,),) = marks
        return {f"{group}_score": score for group in groups} | {f"{group}_asked": 1.0 for group in groups}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {group: percent(sums[f"{group}_score"], sums[f"{group}_asked"]) for group in ("all", *ABILITIES)}
        return {f"MM-Vet {group}".removesuffix(" all"): value for group, value in named.items()}


def question_of(key: str, row: Mapping[str, object], where: str) -> Question:
    abilities = items_at(row, "capability", where)
    if unknown := [ability for ability in abilities if ability not in ABILITIES]:
        raise InputError(f"{where}, capability: expected some of {', '.join(ABILITIES)}, got {unknown[0]!r}")
    image = image_at(row, "imagename", where)
    return Question(
        prompt=Prompt(
            prompt_id=key,
            image_id=image,
            question=text_at(row, "question", where),
            source="mm_vet",
            image_path=image,
        ),
        reference=text_at(row, "answer", where).replace("<AND>", " <AND> ").replace("<OR>", " <OR> "),
        abilities=list(dict.fromkeys(abilities)),
    )
