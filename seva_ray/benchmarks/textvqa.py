"""TextVQA: questions about the text in an image, each with ten human answers; soft accuracy.

In: the published TextVQA_0.5.1_val.json and the folder of images, <image_id>.jpg. LLaVA-1.5's protocol also needs its
llava_textvqa_val_v051_ocr.jsonl, which holds the prompts with their OCR tokens. Without it the question is asked alone,
which is another protocol. So is the way in which another family is asked; see choices.py. Out: accuracy.

It scores as M4C's evaluator does, which LLaVA uses. Answers are normalised as on EvalAI. The worth of an answer that
some of the ten people gave is the mean, over all ways to leave one person out, of min(1, others who gave it / 3).
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, get_args

import numpy as np

from seva_ray.benchmarks.base import LabelledBenchmark, LabelledQuestion, percent
from seva_ray.benchmarks.choices import AskedAs, ask_short
from seva_ray.benchmarks.files import (
    id_at,
    image_at,
    items_at,
    object_at,
    read_json,
    read_json_lines,
    settle_paths,
    text_at,
    unique,
)
from seva_ray.core.checks import check_choice
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt

NUM_PEOPLE = 10
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(NUMBER_WORDS.split())}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
"""The comma and the question mark are not in it, because they are removed before."""
CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in CONTRACTED.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
"""A contraction that lacks one apostrophe -> the contraction. The last entry is reversed, as in the published table."""


SMOLVLM2_INSTRUCTIONS = """Answer the following question about the image using as few words as possible. \
Follow these additional instructions:
-Always answer a binary question with Yes or No.
-When asked what time it is, reply with the time seen in the image.
-Do not put any full stops at the end of the answer.
-Do not put quotation marks around the answer.
-An answer with one or two words is favorable.
-Do not apply common sense knowledge. The answer can be found in the image.
Question: """
"""What SmolVLM2 is told before the question. Source: as in choices.py."""

Worth = Mapping[str, float]
"""What each normalised answer that somebody gave is worth, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class TextVqa(LabelledBenchmark[Worth]):
    """The questions of the validation set."""

    kind: ClassVar[str] = "TextVqa"
    short_name: ClassVar[str] = "textvqa"

    path: str = place()
    """TextVQA_0.5.1_val.json."""
    image_root: str = place()
    """Folder of the images: train_images."""
    ocr_path: str = place("")
    """LLaVA's llava_textvqa_val_v051_ocr.jsonl. Empty: the questions are asked without OCR tokens."""
    asked_as: AskedAs = "llava"
    """The way of asking, by the family whose own evaluation asks so. Only LLaVA's has OCR tokens."""

    def __post_init__(self) -> None:
        check_choice(self, "asked_as", get_args(AskedAs))
        if self.ocr_path and self.asked_as != "llava":
            raise ConfigError(f"ocr_path: {self.asked_as} is asked without OCR tokens")
        if self.ocr_path:
            settle_paths(self, "ocr_path")
        super().__post_init__()

    @property
    def protocol(self) -> str:
        if self.asked_as != "llava":
            return self.asked_as
        return "llava" if self.ocr_path else "llava-no-ocr"

    @cached_property
    def questions(self) -> list[LabelledQuestion[Worth]]:
        rows = self._rows()
        texts = self._texts(rows) if self.ocr_path else {}
        return [self._question(question_id, row, texts.get(question_id)) for question_id, row in rows.items()]

    @property
    def count_names(self) -> Sequence[str]:
        return ("worth", "asked")

    def is_right(self, question: LabelledQuestion[Worth], text: str | None) -> bool:
        """An answer is right if at least three of the ten people gave it, which VQA calls 100 % accurate.

        It is not the soft accuracy. There an answer of three people is worth 0.9, and one of fewer people more than 0.
        Source: Antol et al., VQA (arXiv 1505.00468), its accuracy min(people who gave the answer / 3, 1).
        """
        return self._worth(question, text) >= RIGHT_FROM

    def count(self, question: LabelledQuestion[Worth], text: str | None) -> Mapping[str, float]:
        return {"worth": self._worth(question, text), "asked": 1.0}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"TextVQA accuracy": percent(sums["worth"], sums["asked"])}

    def _worth(self, question: LabelledQuestion[Worth], text: str | None) -> float:
        return question.label.get(normalised_answer(text), 0.0) if text is not None else 0.0

    def _rows(self) -> dict[str, dict[str, Any]]:
        found = []
        for number, row in enumerate(items_at(read_json(self.path, dict), "data", self.path), start=1):
            where = f"{self.path}, question {number}"
            found.append((where, id_at(object_at(row, where), "question_id", where), row | {"where": where}))
        return unique(found, "question_id", self.path)

    def _texts(self, rows: Mapping[str, dict[str, Any]]) -> dict[str, str]:
        """LLaVA's prompt by question id. Its rows name only the image, so the words of the question must match too."""
        waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
        for question_id, row in rows.items():
            key = id_at(row, "image_id", row["where"]), text_at(row, "question", row["where"]).lower()
            waiting[key].append(question_id)
        texts = {}
        for where, prompt in read_json_lines(self.ocr_path):
            image, text = id_at(prompt, "question_id", where), text_at(prompt, "text", where)
            question = text.split("\n")[0].strip()
            if not waiting[image, question.lower()]:
                raise InputError(f"{where}, text: {self.path} has no question {question[:80]!r} about image {image}")
            texts[waiting[image, question.lower()].pop(0)] = text
        if missing := [question_id for question_id in rows if question_id not in texts]:
            raise InputError(
                f"{self.ocr_path}: lacks {len(missing)} of the questions of {self.path}, such as {missing[0]}"
            )
        return texts

    def _question(self, question_id: str, row: Mapping[str, Any], text: str | None) -> LabelledQuestion[Worth]:
        where = row["where"]
        answers = items_at(row, "answers", where)
        if len(answers) != NUM_PEOPLE or not all(isinstance(answer, str) for answer in answers):
            raise InputError(f"{where}, answers: expected {NUM_PEOPLE} texts, got {len(answers)} items")
        image = image_at(row, "image_id", where)
        question = text_at(row, "question", where)
        # LLaVA's prompts begin with a capital.
        bare = ask_short(self.asked_as, question.capitalize() if self.asked_as == "llava" else question)
        if self.asked_as == "smolvlm2":
            bare = SMOLVLM2_INSTRUCTIONS + bare
        prompt = Prompt(
            prompt_id=question_id,
            image_id=image,
            question=text or bare,
            source="textvqa",
            image_path=f"{image}.jpg",
        )
        return LabelledQuestion(prompt=prompt, label=worths([normalised_answer(answer) for answer in answers]))


def worths(answers: list[str]) -> dict[str, float]:
    """What each distinct answer is worth. Each of its `k` givers sees k - 1 others who gave it; all others see k."""
    worth = {}
    for answer in set(answers):
        k, rest = answers.count(answer), len(answers) - answers.count(answer)
        worth[answer] = (k * min(1, (k - 1) / 3) + rest * min(1, k / 3)) / len(answers)
    return worth


RIGHT_FROM = worths(["right"] * 3 + ["wrong"] * (NUM_PEOPLE - 3))["right"]
"""The worth of an answer that three people gave."""


def normalised_answer(text: str) -> str:
    """The answer in lower case, with digits for numbers, no punctuation, no articles, and all apostrophes.

    A punctuation mark that touches a space anywhere in the text is removed everywhere. Otherwise it becomes a space.
    A period is removed unless a digit follows. The script means to remove all such periods, and removes the first 32.
    Source: EvalAI's answer processor, as described by VQA's evaluation (visualqa.org) and used by M4C.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in PUNCTUATION:
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    bare = re.sub(r"\.(?!\d)", "", bare, count=32)
    words = [NUMBERS.get(word, word) for word in bare.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
