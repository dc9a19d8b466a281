"""MM-Vet: open questions that need several abilities at once; a judge scores each answer against a short reference.

In: the published folder: mm-vet.json, {id: {imagename, question, answer, capability}}, and images/. Out: the mean score
over all questions, and over those that need each ability. As published, an answer gets 0.0 to 1.0 in steps of 0.1, and
<AND> and <OR> join parts of the reference. Deviates: the judge prompt is our own and has no examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.files import image_at, items_at, object_at, read_json, text_at, unique
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

ABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
COUNTS = [f"{group}_{what}" for group in ("all", *ABILITIES) for what in ("score", "asked")]
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
class MmVet(PublishedFolder):
    """The questions of MM-Vet, judged with our own prompt."""

    kind: ClassVar[str] = "MmVet"
    short_name: ClassVar[str] = "mm-vet"
    instructions: ClassVar[str] = INSTRUCTIONS
    count_names: ClassVar[Sequence[str]] = COUNTS

    @cached_property
    def questions(self) -> dict[str, ReferencedQuestion]:
        path = f"{self.path}/mm-vet.json"
        return unique(
            (
                (f"{path}, {key}", key, self._question(key, object_at(row, f"{path}, {key}"), f"{path}, {key}"))
                for key, row in read_json(path, dict).items()
            ),
            "id",
            path,
        )

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        question = self.questions[prompt_id]
        asked, reference = question.prompt.question, question.reference
        return [JudgePrompt(text=judge_text(INSTRUCTIONS, question=asked, reference=reference, answer=answer))]

    def parse(self, verdict: str) -> Marks | None:
        match = one_line(verdict, r"Score: *(0(?:\.\d)?|1(?:\.0)?)")
        return (float(match[1]),) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        ((score,),) = marks
        return by_group(self.questions[prompt_id].groups, score=score, asked=1.0)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = {group: percent(sums[f"{group}_score"], sums[f"{group}_asked"]) for group in ("all", *ABILITIES)}
        return {f"MM-Vet {group}".removesuffix(" all"): value for group, value in named.items()}

    def _question(self, key: str, row: Mapping[str, object], where: str) -> ReferencedQuestion:
        abilities = items_at(row, "capability", where)
        if unknown := [ability for ability in abilities if ability not in ABILITIES]:
            raise InputError(f"{where}, capability: expected some of {', '.join(ABILITIES)}, got {unknown[0]!r}")
        image = image_at(row, "imagename", where)
        return ReferencedQuestion(
            prompt=Prompt(
                prompt_id=key,
                image_id=image,
                question=text_at(row, "question", where),
                source="mm_vet",
                image_path=image,
            ),
            reference=text_at(row, "answer", where).replace("<AND>", " <AND> ").replace("<OR>", " <OR> "),
            groups=["all", *dict.fromkeys(abilities)],
        )
