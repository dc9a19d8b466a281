"""Images and questions sampled from a LLaVA instruction file, such as the published llava_v1_5_mix665k.json.

In: a JSON list of {id, image, conversations: [{from: human | gpt, value}]}; the source of a row is the first segment of
its image path. Out: prompts in an order of their own. Answers in the file are never used, and rows without `image` are
text-only: they are skipped, and counted in the log.
"""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import generator, key_of
from seva_ray.core.storage import absolute
from seva_ray.sources.base import PLACEHOLDER, check_directory, check_names, checked, failed, locate

log = logging.getLogger(__name__)

SOURCES = ("ocr_vqa", "textvqa", "gqa", "vg", "coco")
"""Whose questions we know how to clean."""

ANSWER_SHORTLY = "Answer the question using a single word or phrase."

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LlavaJson:
    """A seeded sample of images per source and of questions per image; the order of the file does not change it."""

    kind: ClassVar[str] = "LlavaJson"

    path: str
    """The JSON file: a local path or an fsspec URI."""
    image_root: str
    """Holds `ocr_vqa/`, `textvqa/`, ...: what `image` in the file is relative to. A directory or an fsspec URI."""
    counts: dict[str, int] = field(
        default_factory=lambda: {"ocr_vqa": 4000, "textvqa": 8000, "gqa": 0, "vg": 0, "coco": 0}
    )
    """Images per source, 0 for none. The images of a smaller count are among those of a larger."""
    questions_per_image: dict[str, int] = field(
        default_factory=lambda: {"ocr_vqa": 2, "textvqa": 1, "gqa": 2, "vg": 2, "coco": 2}
    )
    """At most so many questions about one image, per source; all of them where the image has fewer."""
    seed: int = 0
    """Which images and questions are taken."""

    def __post_init__(self) -> None:
        check_names(self, "path", "image_root")
        object.__setattr__(self, "path", absolute(self.path))
        object.__setattr__(self, "image_root", absolute(self.image_root))
        for name, least in (("counts", 0), ("questions_per_image", 1)):
            for source, count in getattr(self, name).items():
                if source not in SOURCES:
                    raise ConfigError(f"{name} {source!r}: must be one of {', '.join(SOURCES)}")
                if type(count) is not int or count < least:
                    raise ConfigError(f"{name} of {source} {count!r}: must be a whole number from {least}")
        if not self.wanted:
            raise ConfigError(f"counts {self.counts}: asks for no image")
        for source in self.wanted:
            if source not in self.questions_per_image:
                raise ConfigError(f"questions_per_image {self.questions_per_image}: says nothing about {source}")

    @property
    def wanted(self) -> dict[str, int]:
        return {source: count for source, count in self.counts.items() if count}

    def prompts(self) -> Iterator[Prompt]:
        """Source by source, image by image in the order of the draw; rows of a wrong shape come last."""
        check_directory("image_root", self.image_root)
        yield from checked(self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        images, bad = grouped(read_rows(self.path), self.wanted)
        for source, count in self.wanted.items():
            found = images.get(source, {})
            if not found:
                there = ", ".join(sorted(images)) or "none of the sources we know"
                raise InputError(f"{self.path}: no row of source {source}; it has {there}")
            if count > len(found):
                log.warning("%s: %s images of %s, not the %s asked for", self.path, len(found), source, count)
            drawn = sorted(found, key=lambda image: key_of(self.seed, image, "image"))[:count]
            images[source] = {image: found[image] for image in drawn}
        for source in self.wanted:
            for image, rows in images[source].items():
                yield from self._questions(source, image, rows)
        yield from bad

    def _questions(self, source: str, image: str, rows: Sequence[Row]) -> Iterator[Prompt]:
        questions, repeats = human_turns(source, rows)
        order = generator(self.seed, image, "questions").permutation(len(questions))
        for index in sorted(order[: self.questions_per_image[source]]):
            prompt_id, value = questions[index]
            question = clean_question(value, source)
            yield Prompt(prompt_id=prompt_id, image_id=image, question=question, source=source, image_path=image)
        for prompt_id in repeats:
            yield failed(prompt_id, "the file has this row a second time", source)


def clean_question(value: str, source: str) -> str:
    """A human turn without the image's placeholder and the answer format.

    Source: SeVa, arXiv 2404.10501, data preparation of the released models; coco is ours, after gqa and vg.
    """
    if source == "textvqa":
        return value.replace(f"{PLACEHOLDER}\n", "")
    return value.replace(PLACEHOLDER, "").replace(ANSWER_SHORTLY, "").replace("\n", "")


def human_turns(source: str, rows: Sequence[Row]) -> tuple[list[tuple[str, str]], list[str]]:
    """All (prompt_id, text) that ask about one image, and an id for each row that is there twice.

    An id names rows within its source only: gqa and vg both number Visual Genome's images. And the published file
    spreads the conversations about a COCO image over rows of one id: their turns are numbered through.
    """
    if len(rows) > 1:  # the file's order must not show
        rows = sorted(rows, key=lambda row: (str(row["id"]), json.dumps(row["conversations"], sort_keys=True)))
    turns: list[tuple[str, str]] = []
    repeats: list[str] = []
    numbers: dict[str, int] = {}
    previous: Row | None = None
    for row in rows:
        row_id = f"{source}/{row['id']}"
        if previous and str(row["id"]) == str(previous["id"]) and row["conversations"] == previous["conversations"]:
            repeats.append(f"{row_id}#2")
            continue
        for turn in row["conversations"]:
            if turn["from"] == "human":
                number = numbers.get(row_id, 0)
                turns.append((f"{row_id}-{number}", turn["value"]))
                numbers[row_id] = number + 1
        previous = row
    return turns, repeats


def read_rows(uri: str) -> list[Any]:
    """The whole file, in memory for as long as the sample is drawn. Raises: InputError."""
    filesystem, path = locate(uri)
    try:
        with filesystem.open(path, "rb") as file:
            rows = json.load(io.TextIOWrapper(file, encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{uri}: {'no such file' if isinstance(error, FileNotFoundError) else error}") from None
    if not isinstance(rows, list):
        raise InputError(f"{uri}: must be a JSON list of rows, not {type(rows).__name__}")
    return rows


def grouped(rows: Sequence[Any], wanted: Mapping[str, int]) -> tuple[dict[str, dict[str, list[Row]]], list[Prompt]]:
    """Source -> image -> rows, for sources that are wanted (the others stay empty), and what cannot be used."""
    images: dict[str, dict[str, list[Row]]] = {}
    bad: list[Prompt] = []
    num_text_only = num_unwanted = 0
    for index, row in enumerate(rows):
        if isinstance(row, dict) and "image" not in row:
            num_text_only += 1
            continue
        error = fault(row)
        source = row["image"].split("/")[0] if isinstance(row, dict) and isinstance(row["image"], str) else ""
        if source in SOURCES and source not in wanted:
            images.setdefault(source, {})
            num_unwanted += 1
        elif error:
            bad.append(failed(f"row-{index}", f"row {index}: {error}", source if source in SOURCES else ""))
        else:
            images.setdefault(source, {}).setdefault(row["image"], []).append(row)
    log.info(
        "%d rows: %d text-only and %d of other sources skipped, %d unusable",
        len(rows),
        num_text_only,
        num_unwanted,
        len(bad),
    )
    return images, bad


def fault(row: Any) -> str | None:
    """What is wrong with a row's shape. The published file has ids of both kinds, text and number."""
    if not isinstance(row, dict):
        return "must be an object with id, image and conversations"
    if isinstance(row.get("id"), bool) or not isinstance(row.get("id"), (str, int)) or row["id"] == "":
        return "field id: must be a text or a number"
    if not isinstance(row["image"], str) or not row["image"]:
        return "field image: must be a path"
    source = row["image"].split("/")[0]
    if source not in SOURCES:
        return f"field image: unknown source {source!r}, must be one of {', '.join(SOURCES)}"
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)
        for turn in turns
    ):
        return "field conversations: must be a list of {from, value}"
    if not any(turn["from"] == "human" for turn in turns):
        return "field conversations: no turn of a human"
    return None
