"""POPE asks whether an object is in the image: three sets of yes/no questions about the same COCO images.

In: the published label files, JSON lines of {question_id, image, text, label}, and the COCO val2014 image folder.

It has several protocols, whose numbers cannot be compared. `seva` asks only the question, and models answer in
sentences. `llava` adds LLaVA-1.5's request for a single word, with which InternVL and LLaVA-OneVision are asked too.
`qwen2-vl` asks for yes or no, as Qwen2-VL and its successors are asked. `smolvlm2` asks only the question, as
SmolVLM2's own evaluation does. All read answers by the same rule: says_yes in yesno.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from seva_ray.benchmarks import yesno
from seva_ray.benchmarks.base import LabelledBenchmark, LabelledQuestion
from seva_ray.benchmarks.choices import SHORT_ANSWER, YES_OR_NO
from seva_ray.benchmarks.files import choice_at, id_at, image_at, read_json_lines, text_at, unique
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt

PopeProtocol = Literal["seva", "llava", "qwen2-vl", "smolvlm2"]
REQUESTS = {"seva": "", "llava": f"\n{SHORT_ANSWER}", "qwen2-vl": f" {YES_OR_NO}", "smolvlm2": ""}


@dataclass(frozen=True, kw_only=True)
class Pope(LabelledBenchmark[str]):
    """The three POPE label files as one benchmark. A tally has one row per image over all three."""

    kind: ClassVar[str] = "Pope"
    short_name: ClassVar[str] = "pope"

    path: str = place()
    """Folder with coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json."""
    image_root: str = place()
    """Folder or URI of the images. The label files name images relative to it."""
    protocol: PopeProtocol = "seva"
    """`seva` and `smolvlm2` ask only the question; `llava` adds a line that requests a single word or phrase, and
    `qwen2-vl` a request for yes or no."""

    def __post_init__(self) -> None:
        if self.protocol not in REQUESTS:
            raise ConfigError(f"protocol {self.protocol!r}: must be {' or '.join(REQUESTS)}")
        super().__post_init__()

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        return [
            question
            for category in yesno.CATEGORIES
            for question in self._read(f"{self.path.rstrip('/')}/coco_pope_{category}.json", category)
        ]

    @property
    def count_names(self) -> Sequence[str]:
        return yesno.outcome_names()

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        return text is not None and yesno.says_yes(text) == (question.label == "yes")

    def count(self, question: LabelledQuestion[str], text: str | None) -> Mapping[str, float]:
        label_yes = question.label == "yes"
        return yesno.outcome_counts(question.group, label_yes, said_yes=label_yes == self.is_right(question, text))

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Accuracy, precision, recall, F1 and yes-ratio, per category and overall, in percent."""
        return yesno.pope_metrics(sums)

    def _read(self, path: str, category: str) -> list[LabelledQuestion[str]]:
        rows = (
            (where, id_at(row, "question_id", where), self._question(row, category, where))
            for where, row in read_json_lines(path)
        )
        return list(unique(rows, "question_id", path).values())

    def _question(self, row: Mapping[str, object], category: str, where: str) -> LabelledQuestion[str]:
        image, text = image_at(row, "image", where), text_at(row, "text", where)
        prompt = Prompt(
            # Ids repeat between the files.
            prompt_id=f"{category}-{id_at(row, 'question_id', where)}",
            image_id=image,
            question=text + REQUESTS[self.protocol],
            source=f"pope_{category}",
            image_path=image,
        )
        return LabelledQuestion(prompt=prompt, group=category, label=choice_at(row, "label", ("yes", "no"), where))
