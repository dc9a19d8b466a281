"""Pairwise competition: a judge says which of two models answers LLaVA-Bench's questions better.

In: LLaVA-Bench's folder. Out: how often each model wins, and how often neither does. A judge prefers the first or the
second position, so it is asked in both orders. A model wins a question only if it is called better both times. If
neither model wins, it is a tie. Equal answers tie, and the judge is not asked. The competition follows figure 5 of SeVa
(arXiv 2404.10501); the judge prompt is our own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from seva_ray.benchmarks.base import percent
from seva_ray.benchmarks.judged.base import TEXTS_ONLY, PublishedFolder, ReferencedQuestion, one_line
from seva_ray.benchmarks.judged.judgement import JudgePrompt, Marks
from seva_ray.benchmarks.judged.llava_bench import beside, read_questions

INSTRUCTIONS = f"""\
Compare two answers to a question about an image. A description of what is in the image stands for it.
{TEXTS_ONLY}
The better answer is the one that helps more with the question and says less that the description contradicts. Neither \
its length nor which answer stands first is a merit. Where you see no clear difference, call it a tie.
Explain your choice first. End with one line of one of these three forms, and write no other line like them:
Better: first
Better: second
Better: tie
"""
CHOICES = {"first": 1.0, "second": 2.0, "tie": 0.0}
"""The mark of each choice."""


@dataclass(frozen=True, kw_only=True)
class Competition(PublishedFolder):
    """A judge compares both models on the questions of LLaVA-Bench."""

    kind: ClassVar[str] = "Competition"
    short_name: ClassVar[str] = "competition"
    instructions: ClassVar[str] = INSTRUCTIONS
    count_names: ClassVar[Sequence[str]] = ("asked", "won", "tied")

    @cached_property
    def questions(self) -> dict[str, ReferencedQuestion]:
        return read_questions(self.path)

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        """Returns two prompts: one with `answer` first, one with `other` first."""
        if answer == other:
            return []
        question = self.questions[prompt_id]
        orders = ((answer, other), (other, answer))
        return [JudgePrompt(text=beside(INSTRUCTIONS, question, *order)) for order in orders]

    def parse(self, verdict: str) -> Marks | None:
        match = one_line(verdict, r"Better: *(first|second|tie)")
        return (CHOICES[match[1].lower()],) if match else None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        choices = [choice for (choice,) in marks]
        won, lost = choices == [1.0, 2.0], choices == [2.0, 1.0]
        return {"asked": 1.0, "won": float(won), "tied": float(not won and not lost)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The policy's wins are the starting model's losses, so their difference is wins minus losses."""
        return {"wins": percent(sums["won"], sums["asked"]), "ties": percent(sums["tied"], sums["asked"])}
