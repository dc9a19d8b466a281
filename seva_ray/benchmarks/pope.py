"""POPE: is an object in the image? Three sets of yes/no questions about the same COCO images.

In: the published label files, JSON lines of {question_id, image, text, label}, and the COCO val2014 image folder.
The bare question is asked, as SeVa does. LLaVA's own protocol adds "Answer the question using a single word or
phrase.": numbers of the two protocols cannot be compared.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from seva_ray.benchmarks import yesno
from seva_ray.benchmarks.base import Tally
from seva_ray.errors import InputError
from seva_ray.records import Prompt, Response


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a label file."""

    prompt_id: str
    category: str
    image: str
    text: str
    label_yes: bool


@dataclass(frozen=True, kw_only=True)
class Pope:
    """The three POPE label files as one benchmark; a tally has one row per image over all three."""

    path: str
    """Folder with coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json."""
    image_root: str
    """Folder or URI of the images; the label files name images relative to it."""

    def __post_init__(self) -> None:
        self._questions_by_image()  # A wrong file is found here, before a model answers anything.

    @property
    def name(self) -> str:
        """Says the protocol, because its numbers cannot be compared with those of another."""
        return "pope-seva"

    def prompts(self) -> Iterator[Prompt]:
        """Every question, images in the order of their first appearance."""
        for image, questions in self._questions_by_image().items():
            for question in questions:
                yield Prompt(
                    prompt_id=question.prompt_id,
                    image_id=image,
                    question=question.text,
                    source=f"pope_{question.category}",
                    image_path=image,
                )

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """The counts of every image; a question without a usable response counts as answered wrongly."""
        by_image = self._questions_by_image()
        names = yesno.count_names()
        counts = np.zeros((len(by_image), len(names)))
        for row, questions in zip(counts, by_image.values(), strict=True):
            for question in questions:
                response = responses.get(question.prompt_id)
                usable = response is not None and response.error is None
                said_yes = yesno.says_yes(response.text) if response and usable else not question.label_yes
                row += list(yesno.count(question.category, question.label_yes, said_yes).values())
        return Tally(image_ids=list(by_image), names=names, counts=counts)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Accuracy, precision, recall, F1 and yes-ratio, per category and overall, in percent."""
        return yesno.metrics(sums)

    def _questions_by_image(self) -> dict[str, list[Question]]:
        by_image: dict[str, list[Question]] = {}
        for category in yesno.CATEGORIES:
            for question in _read(Path(self.path) / f"coco_pope_{category}.json", category):
                by_image.setdefault(question.image, []).append(question)
        return by_image


def _read(path: Path, category: str) -> list[Question]:
    """The questions of one label file.

    Raises: InputError naming file, row and field where the file is not as published.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from error
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = _parse(line, category, where=f"{path}, row {number}")
        if question.prompt_id in questions:
            question_id = question.prompt_id.removeprefix(f"{category}-")
            raise InputError(f"{path}, row {number}, question_id: {question_id} was already used in this file")
        questions[question.prompt_id] = question
    if not questions:
        raise InputError(f"{path}: has no questions")
    return list(questions.values())


def _parse(line: str, category: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not a JSON object")
    question_id = row.get("question_id")
    if not isinstance(question_id, int | str) or isinstance(question_id, bool) or question_id == "":
        raise InputError(f"{where}, question_id: expected a number or text, got {question_id!r}")
    for field in ("image", "text", "label"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise InputError(f"{where}, {field}: expected text, got {row.get(field)!r}")
    if row["label"] not in ("yes", "no"):
        raise InputError(f"{where}, label: expected yes or no, got {row['label']!r}")
    if PurePosixPath(row["image"]).is_absolute() or ".." in PurePosixPath(row["image"]).parts:
        raise InputError(f"{where}, image: expected a path inside the image root, got {row['image']!r}")
    return Question(
        # Ids repeat between the files.
        prompt_id=f"{category}-{question_id}",
        category=category,
        image=row["image"],
        text=row["text"].strip(),
        label_yes=row["label"] == "yes",
    )
