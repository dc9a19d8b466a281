"""Images and questions sampled from a LLaVA instruction file: the published llava_v1_5_mix665k.json, or one's own.

In: rows {id, image, conversations: [{from: human | gpt, value}]}, as a JSON list or JSON lines. The source of a row is
the first folder of its image path. Out: prompts in an order that does not depend on the file's order. The answers in
the file are used only by `answers`. Rows without `image` contain only text: they are skipped and counted in the log.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import generator, key_of
from seva_ray.core.storage import absolute
from seva_ray.sources.base import PLACEHOLDER, check_directory, check_names, checked, examined, failed
from seva_ray.sources.files import json_rows

log = logging.getLogger(__name__)

SOURCES = ("ocr_vqa", "textvqa", "gqa", "vg", "coco")
"""Folders of the published file, whose questions have a rule of their own by which they are cleaned."""

OWN_FOLDER = "images"
"""The source of a row whose image path has no folder."""

COUNTS = {"ocr_vqa": 4000, "textvqa": 8000, "gqa": 0, "vg": 0, "coco": 0}
"""Numbers of images that the released models were made from."""

SOME_IMAGES = 4000
"""Number of images of a data set that the released models were not made from, in the paper's ablation."""

ANSWER_SHORTLY = "Answer the question using a single word or phrase."

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The images that prompts are made of."""

    images: Mapping[str, Sequence[str]]
    """Their paths, by source."""
    bad: Sequence[Prompt]
    """The rows that cannot be used."""
    own_root: str | None
    """The images' place in a file of the user's own, in which each folder of images is a source."""


@dataclass(frozen=True, kw_only=True)
class LlavaJson:
    """LLaVA's instruction file, or one's own in that form: a seeded sample of its images and questions."""

    kind: ClassVar[str] = "LlavaJson"

    path: str = place()
    """The file, .json or .jsonl: a local path or an fsspec URI."""
    image_root: str = place()
    """The directory or fsspec URI that image paths in the file start from."""
    counts: dict[str, int] = field(default_factory=COUNTS.copy)
    """Number of images per source of the published file. A smaller number takes a subset of a larger one. If the file
    has none of these sources, all images of all folders are taken, as with `folders`."""
    questions_per_image: dict[str, int] = field(
        default_factory=lambda: {"ocr_vqa": 2, "textvqa": 1, "gqa": 2, "vg": 2, "coco": 2}
    )
    """Largest number of questions about one image, per source. If an image has fewer, all are taken."""
    folders: dict[str, int] = field(default_factory=dict)
    """Number of images per folder, instead of `counts`, for a file of one's own: such as `sam 5000 wikiart 500`; 0
    takes all. All questions about an image are taken, unless questions_per_image names the folder."""
    seed: int = 0
    """Seed of the choice of images and questions."""

    def __post_init__(self) -> None:
        check_names(self, "path", "image_root")
        object.__setattr__(self, "path", absolute(self.path))
        object.__setattr__(self, "image_root", absolute(self.image_root))
        for name, least in (("counts", 0), ("folders", 0), ("questions_per_image", 1)):
            for source, count in getattr(self, name).items():
                known = (*SOURCES, *self.folders, OWN_FOLDER) if self.folders else SOURCES
                if source not in known:
                    raise ConfigError(f"{name} {source!r}: must be one of {', '.join(SOURCES)}")
                if type(count) is not int or count < least:
                    raise ConfigError(f"{name} of {source} {count!r}: must be a whole number from {least}")
        if self.folders:
            return
        if not self.wanted:
            raise ConfigError(f"counts {self.counts}: asks for no image")
        for source in self.wanted:
            if source not in self.questions_per_image:
                raise ConfigError(f"questions_per_image {self.questions_per_image}: has no number for {source}")

    @property
    def wanted(self) -> dict[str, int]:
        return {source: count for source, count in self.counts.items() if count}

    def alone(self, name: str) -> "LlavaJson":
        """The same with one data set of the file as the only one: as many of its images as were asked for, or else
        4,000. Raises: ConfigError for an unknown name."""
        known = self.folders or dict.fromkeys(SOURCES, SOME_IMAGES) | self.wanted
        if name not in known:
            raise ConfigError(f"source {name!r}: must be one of {', '.join(known)}")
        asked = {name: known[name]}
        return replace(self, folders=asked) if self.folders else replace(self, counts=asked)

    def prompts(self) -> Iterator[Prompt]:
        """All prompts, by source and then by image in the order of the draw. Rows of a wrong shape come last."""
        check_directory("image_root", self.image_root)
        yield from checked(prompt for prompt, _ in self._asked())

    def answers(self) -> dict[str, str]:
        """The file's own answers by prompt_id. Only `stages/ground_truth.py` reads them."""
        asked = list(self._asked())
        prompts = checked(prompt for prompt, _ in asked)
        return {prompt.prompt_id: answer for prompt, (_, answer) in zip(prompts, asked, strict=True) if answer}

    def image_paths(self) -> Iterator[str]:
        """The image paths of the prompts, in less time than the prompts themselves take."""
        check_directory("image_root", self.image_root)
        prompts = (
            Prompt(prompt_id="", image_id="", question="?", source="", image_path=image)
            for images in self._drawn().images.values()
            for image in images
        )
        for prompt in examined(prompts):
            assert prompt.image_path
            yield prompt.image_path

    def _asked(self) -> Iterator[tuple[Prompt, str]]:
        """Every prompt with the file's own answer, which may be empty."""
        drawn = self._drawn()
        rows: dict[str, dict[str, list[Row]]] = {
            source: {image: [] for image in images} for source, images in drawn.images.items()
        }
        for row in json_rows(self.path):  # once more, so that only the rows of the drawn images lie in memory
            source, image = source_and_image(row, drawn.own_root)
            if image in rows.get(source, ()) and not fault(row, drawn.own_root is not None):
                rows[source][image].append(row)
        for source, of_images in rows.items():
            for image in of_images:
                yield from self._questions(source, image, of_images[image])
        for prompt in drawn.bad:
            yield prompt, ""

    def _drawn(self) -> "Drawn":
        """Raises: InputError if the file has none of the images of a source."""
        wanted = self.folders or self.wanted
        own_root = self.image_root if self.folders else None
        if not self.folders and self.counts == COUNTS:
            there = {folder_of(row, self.image_root) for row in json_rows(self.path)} - {""}
            if there and not there & set(SOURCES):
                log_once(f"{self.path}: has none of the published file's sources, so all its images are taken")
                own_root, wanted = self.image_root, dict.fromkeys(sorted(there), 0)
        images, bad = grouped(self.path, wanted, own_root)
        drawn = {}
        for source, count in wanted.items():
            found = images.get(source, {})
            if not found:
                others = ", ".join(sorted(images)) or "none of the sources we know"
                advice = (
                    "" if own_root is not None else "; --source.folders takes rows of any folder, source:hf other forms"
                )
                example = f"; {len(bad):,} rows cannot be used, such as {bad[0].error}" if bad else ""
                raise InputError(f"{self.path}: no row of source {source}; it has {others}{advice}{example}")
            if count > len(found):
                log_once(f"{self.path}: {len(found)} images of {source}, not the {count} asked for", logging.WARNING)
            drawn[source] = sorted(found, key=lambda image: key_of(self.seed, image, "image"))[: count or None]
        return Drawn(images=drawn, bad=bad, own_root=own_root)

    def _questions(self, source: str, image: str, rows: Sequence[Row]) -> Iterator[tuple[Prompt, str]]:
        questions, repeats = human_turns(source, rows)
        order = generator(self.seed, image, "questions").permutation(len(questions))
        for index in sorted(order[: self.questions_per_image.get(source)]):
            prompt_id, value, answer = questions[index]
            question = clean_question(value, source)
            asked = Prompt(prompt_id=prompt_id, image_id=image, question=question, source=source, image_path=image)
            yield asked, answer
        for prompt_id in repeats:
            yield failed(prompt_id, "the file has this row a second time", source), ""


def clean_question(value: str, source: str) -> str:
    """A human turn without the image's placeholder and the answer format.

    Source: SeVa, arXiv 2404.10501, data preparation of the released models. The rule for coco is ours; it follows gqa
    and vg. In questions of other sources only the placeholder and the white space around the text are removed.
    """
    if source not in SOURCES:
        return value.replace(PLACEHOLDER, "").strip()
    if source == "textvqa":
        return value.replace(f"{PLACEHOLDER}\n", "")
    return value.replace(PLACEHOLDER, "").replace(ANSWER_SHORTLY, "").replace("\n", "")


def human_turns(source: str, rows: Sequence[Row]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """All (prompt_id, text, answer) of questions about one image, and an id for each row that occurs twice. The answer
    is the turn after the question; it is empty if a human speaks again, or nobody.

    An id is unique only within its source, because gqa and vg both number Visual Genome's images. The published file
    spreads the conversations about a COCO image over rows with the same id, so their turns are numbered continuously.
    """
    if len(rows) > 1:  # the result must not depend on the file's order
        rows = sorted(rows, key=lambda row: (str(row["id"]), json.dumps(row["conversations"], sort_keys=True)))
    turns: list[tuple[str, str, str]] = []
    repeats: list[str] = []
    numbers: dict[str, int] = {}
    previous: Row | None = None
    for row in rows:
        row_id = f"{source}/{row['id']}"
        if previous and str(row["id"]) == str(previous["id"]) and row["conversations"] == previous["conversations"]:
            repeats.append(f"{row_id}#2")
            continue
        for turn, following in zip(row["conversations"], [*row["conversations"][1:], None], strict=True):
            if turn["from"] == "human":
                number = numbers.get(row_id, 0)
                answer = following["value"].strip() if following and following["from"] != "human" else ""
                turns.append((f"{row_id}-{number}", turn["value"], answer))
                numbers[row_id] = number + 1
        previous = row
    return turns, repeats


def folder_of(row: Any, image_root: str) -> str:
    """The first folder of the row's image path below image_root; empty if the row has no path there."""
    image = row.get("image") if isinstance(row, dict) else None
    if not isinstance(image, str):
        return ""
    image = image.removeprefix(f"{image_root.rstrip('/')}/")
    folder, slash, _ = image.partition("/")
    return folder if slash else image and OWN_FOLDER


def source_and_image(row: Any, own_root: str | None) -> tuple[str, str]:
    """The source of a row, and its image path below `own_root`. Both are empty if the row has no path."""
    image = row.get("image") if isinstance(row, dict) else None
    if not isinstance(image, str):
        return "", ""
    if own_root is None:
        return image.split("/")[0], image
    return folder_of(row, own_root), image.removeprefix(f"{own_root.rstrip('/')}/")


def grouped(
    path: str, wanted: Mapping[str, int], own_root: str | None = None
) -> tuple[dict[str, dict[str, None]], list[Prompt]]:
    """Source -> image paths in the rows' order, for the wanted sources (other sources stay empty); and the rows that
    cannot be used. Any folder is a source if the file is one's own, with its images in `own_root`."""
    images: dict[str, dict[str, None]] = {}
    bad: list[Prompt] = []
    num_rows = num_text_only = num_unwanted = 0
    for num_rows, row in enumerate(json_rows(path), 1):
        if isinstance(row, dict) and "image" not in row:
            num_text_only += 1
            continue
        error = fault(row, own_root is not None)
        source, image = source_and_image(row, own_root)
        known = source if source in SOURCES or own_root is not None else ""
        if known and known not in wanted:
            images.setdefault(source, {})
            num_unwanted += 1
        elif error:
            bad.append(failed(f"row-{num_rows - 1}", f"row {num_rows - 1}: {error}", known))
        else:
            images.setdefault(source, {})[image] = None
    skipped = f"{num_text_only} text-only and {num_unwanted} of other sources skipped"
    log_once(f"{path}: {num_rows} rows, {skipped}, {len(bad)} unusable")
    return images, bad


@cache
def log_once(text: str, level: int = logging.INFO) -> None:
    """The file is read several times, and each time says the same."""
    log.log(level, text)


def fault(row: Any, own: bool) -> str | None:
    """What is wrong with a row's shape, or None. Ids may be numbers. Any folder is good if the file is one's own."""
    if isinstance(row, Exception):
        return f"not JSON ({row})"
    if not isinstance(row, dict):
        return "must be an object with id, image and conversations"
    if isinstance(row.get("id"), bool) or not isinstance(row.get("id"), (str, int)) or row["id"] == "":
        return "field id: must be a text or a number"
    if not isinstance(row["image"], str) or not row["image"]:
        return "field image: must be a path"
    source = row["image"].split("/")[0]
    if source not in SOURCES and not own:
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
