"""MME: two yes/no questions about each image, in ten tasks of perception and four of cognition.

In: the published folder MME_Benchmark_release_version. A task is a folder. For each image it has the image and a text
file of the same name, side by side or in images/ and questions_answers_YN/. A text file has two lines,
`question<tab>Yes|No`. Out, per task: accuracy over questions, accuracy+ over images (both questions right), and the
score, which is their sum (0 to 200 points). The sums of the scores are perception (2000) and cognition (800).

It asks as LLaVA-1.5 does: without "Please answer yes or no.", and with a request for a single word; or by another
protocol of choices.py. It scores as MME's script does: the answer is the yes, or else the no, in its first four
characters, in upper or lower case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import ClassVar, get_args

import numpy as np

from seva_ray.benchmarks.base import LabelledBenchmark, LabelledQuestion, Tally, percent, tally_of
from seva_ray.benchmarks.choices import SHORT_ANSWER, YES_OR_NO, AskedAs
from seva_ray.benchmarks.files import brief, read_text
from seva_ray.core.checks import check_choice
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.listing import linked_files
from seva_ray.core.patience import patiently
from seva_ray.core.records import Prompt, Response
from seva_ray.core.storage import is_directory, locate

PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
TASKS = {"perception": PERCEPTION, "cognition": COGNITION}
COUNTS = ("asked", "right", "images", "both_right")
REQUESTS: Mapping[AskedAs, str] = {
    "internvl": f" {SHORT_ANSWER}",
    "qwen2-vl": "",
    "qwen3-vl": f" {YES_OR_NO}",
    "smolvlm2": "\nGive a very brief answer.",
}
"""What follows a question as it was published, which ends with YES_OR_NO. Source: as in choices.py."""
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class Mme(LabelledBenchmark[str]):
    """The fourteen tasks of MME."""

    kind: ClassVar[str] = "Mme"
    short_name: ClassVar[str] = "mme"
    paths: ClassVar[Sequence[str]] = ("path",)

    path: str = place()
    """The folder MME_Benchmark_release_version."""
    protocol: AskedAs = "llava"
    """The way of asking and scoring. It is part of the recipe."""

    def __post_init__(self) -> None:
        check_choice(self, "protocol", get_args(AskedAs))
        super().__post_init__()

    @property
    def image_root(self) -> str:
        """The folder of the questions also holds the images."""
        return self.path

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        filesystem, root = locate(self.path)
        if not is_directory(self.path):
            raise InputError(f"{self.path}: no such directory")
        names = patiently(lambda: linked_files(filesystem, root), self.path)
        found = []
        for task in (*PERCEPTION, *COGNITION):
            files = [name for name in names if name.startswith(f"{task}/")]
            images = {stem(name): name for name in files if name.lower().endswith(SUFFIXES)}
            texts = [name for name in files if name.endswith(".txt")]
            if not texts:
                raise InputError(f"{self.path}/{task}: has no questions")
            for name in texts:
                found += read_pair(self.path, task, name, images.get(stem(name)), self.protocol)
        return found

    @property
    def count_names(self) -> Sequence[str]:
        return [f"{task}_{what}" for task in (*PERCEPTION, *COGNITION) for what in COUNTS]

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        return said(text or "") == question.label

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        correct = self.correct(responses)
        counted = []
        for image_id, pair in groupby(self.questions, key=lambda question: question.prompt.image_id):
            questions = list(pair)
            hits = [correct[question.prompt.prompt_id] for question in questions]
            values = (len(hits), sum(hits), 1, all(hits))
            counts = {f"{questions[0].group}_{what}": float(value) for what, value in zip(COUNTS, values, strict=True)}
            counted.append((image_id, counts))
        return tally_of(self.count_names, counted)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Accuracies in percent, and scores in points."""
        totals: dict[str, np.ndarray] = {}
        of_tasks: dict[str, np.ndarray] = {}
        for part, tasks in TASKS.items():
            scores = []
            for task in tasks:
                accuracy = percent(sums[f"{task}_right"], sums[f"{task}_asked"])
                both = percent(sums[f"{task}_both_right"], sums[f"{task}_images"])
                scores.append(accuracy + both)
                of_tasks |= {f"MME {task} accuracy": accuracy, f"MME {task} accuracy+": both}
                of_tasks[f"MME {task} score (of 200)"] = scores[-1]
            totals[f"MME {part} score (of {200 * len(tasks)})"] = np.sum(scores, axis=0)
        return totals | of_tasks


def stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def read_pair(path: str, task: str, name: str, image: str | None, protocol: AskedAs) -> list[LabelledQuestion[str]]:
    """The two questions of one text file. If its image does not exist, their prompts hold an error."""
    lines = [line.strip("\r") for line in read_text(f"{path.rstrip('/')}/{name}").split("\n") if line.strip()]
    if len(lines) != 2:
        raise InputError(f"{path}/{name}: expected 2 questions, got {len(lines)}")
    questions = []
    for number, line in enumerate(lines, start=1):
        text, _, answer = line.strip().partition("\t")
        answer = answer.strip().lower()
        if not text.strip() or answer not in ("yes", "no"):
            raise InputError(f"{path}/{name}, row {number}: expected question, tab, Yes or No, got {brief(line)}")
        prompt = Prompt(
            prompt_id=f"{task}/{stem(name)}-{number}",
            image_id=f"{task}/{stem(name)}",
            question=asked(text.strip(), protocol),
            source=f"mme_{task}",
            image_path=image,
            error=None if image else f"no image beside {name}",
        )
        questions.append(LabelledQuestion(prompt=prompt, group=task, label=answer))
    return questions


def asked(text: str, protocol: AskedAs) -> str:
    """The prompt of a published question."""
    if protocol == "llava":
        return f"{text.replace(YES_OR_NO, '').strip()}\n{SHORT_ANSWER}"
    return text + REQUESTS[protocol]


def said(text: str) -> str:
    """What an answer says: `yes`, `no` or `other`."""
    start = text.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")
