"""Images and questions sampled from a LLaVA instruction file: the published llava_v1_5_mix665k.json, or one's own.

In: rows {id, image, conversations: [{from: human | gpt, value}]}, as a JSON list or JSON lines. The source of a row is
the first folder of its image path. Out: prompts in an order that does not depend on the file's order. The answers in
the file are used only by `answers`. Rows without `image` contain only text: they are skipped and counted in the log.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import generator
from seva_ray.core.storage import absolute
from seva_ray.sources.base import PLACEHOLDER, check_directory, check_names, checked, examined, failed
from seva_ray.sources.files import json_rows
from seva_ray.sources.llava_rows import OWN_FOLDER, SOURCES, Images, Row, fault, source_and_image, until_published

log = logging.getLogger(__name__)

COUNTS = {"ocr_vqa": 4000, "textvqa": 8000, "gqa": 0, "vg": 0, "coco": 0}
"""Numbers of images that the released models were made from."""

SOME_IMAGES = 4000
"""Number of images of a data set that the released models were not made from, in the paper's ablation."""

ANSWER_SHORTLY = "Answer the question using a single word or phrase."

KEPT = "_kept"
"""The attribute that holds what was drawn between `image_paths` and `prompts`."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The images that prompts are made of."""

    images: Mapping[str, Images]
    """By source."""
    bad: Sequence[Prompt]
    """The rows that cannot be used."""


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
        """The image paths of the prompts. The file is read for them; `prompts` then need not read it again."""
        check_directory("image_root", self.image_root)
        drawn = self._drawn()
        vars(self)[KEPT] = drawn
        prompts = (
            Prompt(prompt_id="", image_id="", question="?", source="", image_path=image)
            for images in drawn.images.values()
            for image in images.drawn()
        )
        for prompt in examined(prompts):
            assert prompt.image_path
            yield prompt.image_path

    def _asked(self) -> Iterator[tuple[Prompt, str]]:
        """Every prompt with the file's own answer, which may be empty."""
        drawn = vars(self).pop(KEPT, None) or self._drawn()
        for source, images in drawn.images.items():
            for image in images.drawn():
                yield from self._questions(source, image, images.rows[image])
        for prompt in drawn.bad:
            yield prompt, ""

    def _drawn(self) -> "Drawn":
        """Raises: InputError if the file has none of the images of a source."""
        rows, wanted = json_rows(self.path), self.folders or self.wanted
        own_root = self.image_root if self.folders else None
        if not self.folders and self.counts == COUNTS:
            first, there = until_published(rows, self.image_root)
            rows = chain(first, rows)
            if there:
                log.info("%s: has none of the published file's sources, so all its images are taken", self.path)
                own_root, wanted = self.image_root, dict.fromkeys(sorted(there), 0)
            del first  # if the file is large, its rows are in memory once, in what is drawn
        drawn, others = self._draw(rows, wanted, own_root)
        for source, images in drawn.images.items():
            if not images.rows:
                named = ", ".join(sorted(others)) or "none of the sources we know"
                advice = (
                    "" if own_root is not None else "; --source.folders takes rows of any folder, source:hf other forms"
                )
                bad = drawn.bad
                example = f"; {len(bad):,} rows cannot be used, such as {bad[0].error}" if bad else ""
                raise InputError(f"{self.path}: no row of source {source}; it has {named}{advice}{example}")
            if images.most > len(images.rows):
                number = len(images.rows)
                log.warning("%s: %d images of %s, not the %d asked for", self.path, number, source, images.most)
        return drawn

    def _draw(self, rows: Iterable[Any], wanted: Mapping[str, int], own_root: str | None) -> tuple[Drawn, set[str]]:
        """The images of the wanted sources, with the rows that cannot be used; and all sources that have some. Any
        folder is a source if the file is one's own, with its images in `own_root`."""
        images = {source: Images(seed=self.seed, most=count) for source, count in wanted.items()}
        bad: list[Prompt] = []
        others: set[str] = set()
        num_rows = num_text_only = num_unwanted = 0
        for num_rows, row in enumerate(rows, 1):
            if isinstance(row, dict) and "image" not in row:
                num_text_only += 1
                continue
            error = fault(row, own_root is not None)
            source, image = source_and_image(row, own_root)
            known = source if source in SOURCES or own_root is not None else ""
            if known and known not in wanted:
                others.add(source)
                num_unwanted += 1
            elif error:
                bad.append(failed(f"row-{num_rows - 1}", f"row {num_rows - 1}: {error}", known))
            else:
                others.add(source)
                images[source].add(image, row)
        skipped = f"{num_text_only} text-only and {num_unwanted} of other sources skipped"
        log.info("%s: %d rows, %s, %d unusable", self.path, num_rows, skipped, len(bad))
        return Drawn(images=images, bad=bad), others

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
