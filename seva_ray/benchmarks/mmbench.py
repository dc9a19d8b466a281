"""MMBench and MMBench-CN: multiple choice, asked once per rotation of a question's options (circular evaluation).

In: the published TSV, such as mmbench_dev_20230712.tsv or mmbench_dev_cn_20231003.tsv: index, question, hint, A to D,
answer, category, image (base64). Rotations of question `i` are rows `i + k * 1,000,000`. A file without rotated rows is
rotated here. Out: circular accuracy (a question is right if all its rotations are), overall and per category, and the
accuracy of the first row alone.

It asks as LLaVA-1.5 does, or by another protocol of choices.py. It finds an answer's letter by the rules of VLMEvalKit,
MMBench's maintained scorer: the one letter that stands alone, or else the one option whose text is in the answer.
Deviates: if no rule matches an answer, MMBench asks ChatGPT what it means. Here such an answer is wrong, unless a judge
model reads it (`reader`, stages/judge_reading.py). Chinese punctuation separates words too. LLaVA reads an option
"None" as an empty cell; here it is an option.
"""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pyarrow import csv

from seva_ray.benchmarks.base import AskedWith, Tally, accuracies, percent, protocol_of, tally_of, text_of
from seva_ray.benchmarks.choices import LETTERS, AskedAs, ask_circular
from seva_ray.benchmarks.files import adjacent, choice_at, read_file, settle_paths, text_at
from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt, Response

ROTATION = 1_000_000
"""Each rotated row of a question adds this to the index of the row before."""
LANGUAGES = ("en", "cn")
COLUMNS = ("index", "question", "A", "B", "answer", "category", "image")
REFERENCE = 64
"""An image cell that is shorter holds the index of the row with the image."""
TEXT = pa.string()

Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A question with its options in one order."""

    prompt: Prompt
    options: tuple[str, ...]
    answer: str
    """The letter of the right option."""


@dataclass(frozen=True, kw_only=True)
class Circular:
    """A question with all rotations of its options."""

    category: str
    rotations: tuple[Rotation, ...]
    """The first rotation is the question as it was written."""

    @property
    def prompt_id(self) -> str:
        return self.rotations[0].prompt.prompt_id


@dataclass(frozen=True, kw_only=True)
class MMBench(AskedWith):
    """The questions of one TSV file."""

    kind: ClassVar[str] = "MMBench"

    path: str = place()
    """The TSV file of a split with answers: dev."""
    language: Literal["en", "cn"] = "en"
    """Language of the file, and of the line that asks for a letter."""
    protocol: AskedAs = "llava"
    """The way of asking, by the family whose own evaluation asks so. It is part of the recipe."""
    reader: Literal["rules", "judge"] = "rules"
    """Who reads an answer in which no rule finds an option: nobody, so that it is wrong, or a judge model."""
    image_root: ClassVar[None] = None
    """The file holds the images."""
    rules: ClassVar[str] = "vlmevalkit-2025-04"
    """The rules that find the letter in an answer. They are part of the scores' recipe, not of the responses'."""

    def __post_init__(self) -> None:
        settle_paths(self, "path")
        if self.language not in LANGUAGES:
            raise ConfigError(f"language {self.language!r}: must be en or cn")
        self.questions  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        judged = "-judge-own-prompt" if self.reader == "judge" else ""
        return f"mmbench-{self.language}-{protocol_of(self)}{judged}"

    @cached_property
    def questions(self) -> list[Circular]:
        rows = read_tsv(self.path)
        groups: dict[int, dict[int, Row]] = {}
        for index, row in rows.items():
            groups.setdefault(index % ROTATION, {})[index] = row
        rotated = len(groups) < len(rows)
        return [self._question(base, group, rows, rotated) for base, group in groups.items()]

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(rotation.prompt for question in self.questions for rotation in question.rotations)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """A question without a usable response to each of its rotations is wrong."""
        names = [f"{category}_{what}" for category in self.categories for what in ("right", "asked")]
        counted = []
        for question in self.questions:
            right, category = hits(question, responses), question.category
            counts = {f"{category}_asked": 1.0, f"{category}_right": float(all(right)), "first_right": float(right[0])}
            counted.append((question.rotations[0].prompt.image_id, counts))
        return tally_of([*names, "first_right"], counted)

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        """A question is right if all its rotations are. Its key is the prompt_id of the first rotation."""
        return {question.prompt_id: all(hits(question, responses)) for question in self.questions}

    def told(self, responses: Mapping[str, Response], prompt_id: str) -> str | None:
        """The answers to all rotations, one per line, each with the option that its letter stands for there."""
        rotations = self.by_id[prompt_id].rotations
        texts = [text_of(responses, rotation.prompt.prompt_id) for rotation in rotations]
        if None in texts:
            return None
        return "\n".join(chosen(text or "", rotation.options) for text, rotation in zip(texts, rotations, strict=True))

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        named = accuracies("MMBench circular", sums, self.categories)
        asked = np.sum([sums[f"{category}_asked"] for category in self.categories], axis=0)
        return named | {"MMBench accuracy of the first row": percent(sums["first_right"], asked)}

    @cached_property
    def by_id(self) -> dict[str, Circular]:
        return {question.prompt_id: question for question in self.questions}

    @cached_property
    def categories(self) -> list[str]:
        return sorted({question.category for question in self.questions})

    def _question(self, base: int, group: Mapping[int, Row], rows: Mapping[int, Row], rotated: bool) -> Circular:
        if base not in group:
            raise InputError(f"{self.path}, index {min(group)}: a rotation of {base}, which the file lacks")
        where = f"{self.path}, index {base}"
        options = options_of(group[base])
        if len(options) < 2:
            raise InputError(f"{where}, B: expected an option, got none")
        if rotated and len(group) != len(options):
            raise InputError(f"{where}: {len(group)} rows of a question with {len(options)} options")
        image, error = decoded_image(group[base], rows)
        made = group if rotated else {base + k * ROTATION: turned(group[base], k) for k in range(len(options))}
        rotations = [self._rotation(index, made[index], image, error) for index in sorted(made)]
        if len({rotation.answer for rotation in rotations}) < len(rotations):
            raise InputError(f"{where}, answer: its rotations do not have the right option at every letter once")
        category = text_at(group[base], "category", where)
        return Circular(category=category, rotations=tuple(rotations))

    def _rotation(self, index: int, row: Row, image: bytes, error: str | None) -> Rotation:
        where = f"{self.path}, index {index}"
        options = options_of(row)
        question = text_at(row, "question", where)
        hint = row["hint"] if is_filled(row.get("hint", "")) else ""
        asked = ask_circular(self.protocol, question, options, hint, chinese=self.language == "cn")
        prompt = Prompt(
            prompt_id=str(index),
            image_id=hashlib.sha256(image).hexdigest()[:32],
            question=asked,
            source=f"mmbench_{row['category']}",
            image_bytes=image,
            error=error,
        )
        answer = choice_at(row, "answer", LETTERS[: len(options)], where)
        return Rotation(prompt=prompt, options=tuple(options), answer=answer)


def hits(question: Circular, responses: Mapping[str, Response]) -> list[bool]:
    """Whether each rotation is answered right."""
    return [
        vlmevalkit_letter(text_of(responses, rotation.prompt.prompt_id) or "", rotation.options) == rotation.answer
        for rotation in question.rotations
    ]


def chosen(text: str, options: Sequence[str]) -> str:
    letter = vlmevalkit_letter(text, options)
    return text if letter is None else f"{text} ({options[LETTERS.index(letter)]})"


def read_tsv(path: str) -> dict[int, Row]:
    """The rows by index, in the file's order. Quoted fields may hold line breaks."""
    data = read_file(path)
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            read_options=csv.ReadOptions(block_size=len(data) + 1),
            parse_options=csv.ParseOptions(delimiter="\t", newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=False, column_types=dict.fromkeys(header(data), TEXT)
            ),
        )
    except pa.ArrowException as error:
        raise InputError(f"{path}: is not a TSV file: {' '.join(str(error).split())[:200]}") from None
    for column in COLUMNS:
        if column not in table.column_names:
            raise InputError(f"{path}: no column {column!r}; it has {', '.join(table.column_names)[:200]}")
    rows: dict[int, Row] = {}
    for number, row in enumerate(table.to_pylist(), start=1):
        if not re.fullmatch(r"\d{1,12}", row["index"]):
            raise InputError(f"{path}, row {number}, index: expected a whole number, got {row['index'][:40]!r}")
        if int(row["index"]) in rows:
            raise InputError(f"{path}, row {number}, index: {row['index']} was already used in this file")
        rows[int(row["index"])] = row
    if not rows:
        raise InputError(f"{path}: has no questions")
    return rows


def header(data: bytes) -> list[str]:
    return data.lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8-sig", "replace").strip().split("\t")


def is_filled(cell: str) -> bool:
    return cell.strip().lower() not in ("", "nan")


def options_of(row: Row) -> list[str]:
    """The options before the first empty cell."""
    options: list[str] = []
    for letter in "ABCD":
        if not is_filled(row.get(letter, "")):
            break
        options.append(row[letter].strip())
    return options


def decoded_image(row: Row, rows: Mapping[int, Row]) -> tuple[bytes, str | None]:
    """The content of the image file, and the error if it cannot be read."""
    encoded = row["image"]
    if len(encoded) < REFERENCE and encoded.isdigit() and int(encoded) in rows:
        encoded = rows[int(encoded)]["image"]
    try:
        image = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        return b"", f"image of index {row['index']}: is not base64 ({error})"
    return image, None if image else f"image of index {row['index']}: is empty"


def turned(row: Row, steps: int) -> Row:
    """The row with its options moved up by `steps` letters, the first ones to the end, and its answer with them."""
    options = options_of(row)
    order = options[steps:] + options[:steps]
    answer = row["answer"]
    if answer in LETTERS[: len(options)]:
        answer = LETTERS[(LETTERS.index(answer) - steps) % len(options)]
    return row | dict(zip(LETTERS, order)) | {"answer": answer}
