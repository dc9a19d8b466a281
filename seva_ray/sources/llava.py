"""Images and questions sampled from a LLaVA instruction file, such as the published llava_v1_5_mix665k.json.

In: a JSON list of {id, image, conversations: [{from: human | gpt, value}]}. The source of a row is the first segment of
its image path. Out: prompts in an order that does not depend on the file's order. The answers in the file are never
used. Rows without `image` contain only text: they are skipped and counted in the log.
"""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import generator, key_of
from seva_ray.core.storage import absolute
from seva_ray.sources.base import PLACEHOLDER, check_directory, check_names, checked, failed, locate

log = logging.getLogger(__name__)

SOURCES = ("ocr_vqa", "textvqa", "gqa", "vg", "coco")
"""Sources whose questions this file can clean."""

ANSWER_SHORTLY = "Answer the question using a single word or phrase."

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LlavaJson:
    """A seeded sample of images per source and of questions per image. It does not depend on the order of the file."""

    kind: ClassVar[str] = "LlavaJson"

    path: str = place()
    """The JSON file: a local path or an fsspec URI."""
    image_root: str = place()
    """The directory or fsspec URI that holds `ocr_vqa/`, `textvqa/`, ... Paths in the file start from it."""
    counts: dict[str, int] = field(
        default_factory=lambda: {"ocr_vqa": 4000, "textvqa": 8000, "gqa": 0, "vg": 0, "coco": 0}
    )
    """Number of images per source. A smaller number takes a subset of a larger one."""
    questions_per_image: dict[str, int] = field(
        default_factory=lambda: {"ocr_vqa": 2, "textvqa": 1, "gqa": 2, "vg": 2, "coco": 2}
    )
    """Largest number of questions about one image, per source. If an image has fewer, all are taken."""
    seed: int = 0
    """Seed of the choice of images and questions."""

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
                raise ConfigError(f"questions_per_image {self.questions_per_image}: has no number for {source}")

    @property
    def wanted(self) -> dict[str, int]:
        return {source: count for source, count in self.counts.items() if count}

    def prompts(self) -> Iterator[Prompt]:
        """All prompts, by source and then by image in the order of the draw. Rows of a wrong shape come last."""
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

    Source: SeVa, arXiv 2404.10501, data preparation of the released models. The rule for coco is ours; it follows gqa
    and vg.
    """
    if source == "textvqa":
        return value.replace(f"{PLACEHOLDER}\n", "")
    return value.replace(PLACEHOLDER, "").replace(ANSWER_SHORTLY, "").replace("\n", "")


def human_turns(source: str, rows: Sequence[Row]) -> tuple[list[tuple[str, str]], list[str]]:
    """All (prompt_id, text) of questions about one image, and an id for each row that occurs twice.

    An id is unique only within its source, because gqa and vg both number Visual Genome's images. The published file
    spreads the conversations about a COCO image over rows with the same id, so their turns are numbered continuously.
    """
    if len(rows) > 1:  # the result must not depend on the file's order
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
    """The rows of the whole file, which stay in memory while the sample is drawn. Raises: InputError."""
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
    """Source -> image -> rows, for the wanted sources (other sources stay empty); and the rows that cannot be used."""
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
    """What is wrong with a row's shape, or None. The published file has both texts and numbers as ids."""
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
        return "field conversations: has no turn of a human"
    return None
