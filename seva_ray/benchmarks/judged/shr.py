"""SHR, the sentence-level hallucination ratio: a judge marks every sentence of a detailed description.

In: the published folder of SHR (val_images_final.json, shr_factual_part1.jsonl, shr_factual_part2.jsonl) and that of
Visual Genome (image_data.json, region_descriptions.json, VG_100K/, VG_100K_2/). Out: hallucinated sentences in percent
of all sentences. As published, the judge reads Visual Genome's regions and the facts that people added. If these cannot
decide a sentence, such as one about a mood, it is not a hallucination. Deviates: the judge prompt and the rule that
splits sentences are our own. The judge marks sentences and names no objects, so no list of objects is made.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import fsspec
import numpy as np

from seva_ray.benchmarks.base import AskedWith, percent, protocol_of
from seva_ray.benchmarks.files import (
    brief,
    id_at,
    image_at,
    items_at,
    object_at,
    read_json,
    read_json_lines,
    settle_paths,
    text_at,
)
from seva_ray.benchmarks.judged.base import OWN_PROMPT, TEXTS_ONLY, judge_text
from seva_ray.benchmarks.judged.judgement import JudgePrompt, Marks
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.listing import check_can_end
from seva_ray.core.records import Prompt
from seva_ray.core.storage import locate

QUESTION = "Describe this image in detail."
FACTS = ("shr_factual_part1.jsonl", "shr_factual_part2.jsonl")
CHUNK = 2**20
LABELS = {"correct": 0.0, "hallucination": 1.0, "cannot judge": 2.0}
"""The mark of each label."""
INSTRUCTIONS = f"""\
Decide for each sentence of an image's description whether it hallucinates. Two true but incomplete accounts of the \
image stand for it: regions, each with its box (left, top, right, bottom, in pixels; boxes that overlap may be of one \
object), and facts.
{TEXTS_ONLY}
A sentence is a hallucination where it says something about the image that the regions and facts contradict, or names \
an object that would have to be among them and is not. It is correct where they bear it out. For what they cannot \
decide, such as mood or style, say cannot judge.
Write one line per sentence, with its number, and nothing else, such as:
1: correct
2: hallucination
3: cannot judge
"""


@dataclass(frozen=True, kw_only=True)
class GenomeImage:
    """One image with the texts that its judge reads."""

    prompt: Prompt
    regions: str
    facts: str


@dataclass(frozen=True, kw_only=True)
class Shr(AskedWith):
    """The images of SHR, judged with our own prompt."""

    kind: ClassVar[str] = "Shr"
    protocol: ClassVar[str] = OWN_PROMPT
    instructions: ClassVar[str] = INSTRUCTIONS
    count_names: ClassVar[Sequence[str]] = ("images", "sentences", "words", *LABELS)

    path: str = place()
    """Folder of SHR."""
    image_root: str = place()
    """Folder of Visual Genome."""

    @property
    def name(self) -> str:
        return f"shr-{protocol_of(self)}"

    def __post_init__(self) -> None:
        settle_paths(self, "path", "image_root")
        self.images  # noqa: B018 - a wrong file is found here, before a model answers anything

    @cached_property
    def images(self) -> dict[str, GenomeImage]:
        return read_images(self.path, self.image_root)

    def prompts(self) -> Iterator[Prompt]:
        yield from (image.prompt for image in self.images.values())

    def judge_prompts(self, prompt_id: str, answer: str, other: str) -> list[JudgePrompt]:
        """Returns one prompt for all sentences of the answer, or no prompt if it has no sentence."""
        image, lines = self.images[prompt_id], sentences(answer)
        if not lines:
            return []
        numbered = "\n".join(f"{number}: {line}" for number, line in enumerate(lines, start=1))
        text = judge_text(INSTRUCTIONS, regions=image.regions, facts=image.facts, sentences=numbered)
        return [JudgePrompt(text=text, num_marks=len(lines))]

    def parse(self, verdict: str) -> Marks | None:
        """Reads one mark per line, numbered 1, 2, ... in order. Returns None if the verdict has any other line."""
        marks: list[float] = []
        for line in filter(None, map(str.strip, verdict.splitlines())):
            match = re.fullmatch(r"(\d+)[:.] *(correct|hallucination|cannot judge)\.?", line, re.IGNORECASE | re.ASCII)
            if match is None or match[1] != str(len(marks) + 1):
                return None
            marks.append(LABELS[match[2].lower()])
        return tuple(marks) or None

    def count(self, prompt_id: str, answer: str, marks: Sequence[Marks]) -> Mapping[str, float]:
        of_sentences = [mark for of_answer in marks for mark in of_answer]
        counts = {"images": 1.0, "sentences": float(len(of_sentences)), "words": float(len(answer.split()))}
        return counts | {label: float(of_sentences.count(mark)) for label, mark in LABELS.items()}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            "SHR": percent(sums["hallucination"], sums["sentences"]),
            "SHR cannot judge": percent(sums["cannot judge"], sums["sentences"]),
            "SHR sentences per image": percent(sums["sentences"], sums["images"]) / 100,
            "SHR words per image": percent(sums["words"], sums["images"]) / 100,
        }


def sentences(text: str) -> list[str]:
    """The sentences. They end at line ends, and at a full stop, question or exclamation mark before white space."""
    return [part for part in (part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)) if part]


def read_images(folder: str, visual_genome: str) -> dict[str, GenomeImage]:
    """The images by Visual Genome's image_id. Raises: InputError, which names file, row and field."""
    facts: dict[str, str] = {}
    for name in FACTS:
        for where, row in read_json_lines(f"{folder}/{name}"):
            for image_id in row:
                facts[image_id] = "\n".join(map(str, items_at(row, image_id, where)))
    path = f"{folder}/val_images_final.json"
    rows = [(f"{path}, entry {number}", row) for number, row in enumerate(read_json(path, list))]
    wanted = {id_at(object_at(row, where), "image_id", where): where for where, row in rows}
    images = paths_of(f"{visual_genome}/image_data.json", wanted)
    regions = regions_of(f"{visual_genome}/region_descriptions.json", wanted)
    for image_id, where in wanted.items():
        if image_id not in images or image_id not in regions:
            raise InputError(f"{where}, image_id: {image_id} is not in Visual Genome's files in {visual_genome}")
    if not wanted:
        raise InputError(f"{path}: has no questions")
    return {image: genome_image(image, images[image], regions[image], facts.get(image, "")) for image in wanted}


def genome_image(image_id: str, path: str, regions: str, facts: str) -> GenomeImage:
    prompt = Prompt(prompt_id=image_id, image_id=image_id, question=QUESTION, source="shr", image_path=path)
    return GenomeImage(prompt=prompt, regions=regions, facts=facts)


def paths_of(path: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The path of each wanted image by its image_id: the last two parts of its address."""
    found = {}
    for number, row in enumerate(read_json(path, list)):
        where = f"{path}, entry {number}"
        image_id = id_at(object_at(row, where), "image_id", where)
        if image_id in wanted:
            name = "/".join(text_at(row, "url", where).split("/")[-2:])
            found[image_id] = image_at({"url": name}, "url", where)
    return found


def regions_of(path: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The regions of each wanted image by its image_id, one line per region."""
    found = {}
    for number, row in enumerate(entries(path)):
        where = f"{path}, entry {number}"
        regions = [object_at(region, where) for region in items_at(object_at(row, where), "regions", where)]
        if regions and (image_id := id_at(regions[0], "image_id", where)) in wanted:
            found[image_id] = "\n".join(region_line(region, where) for region in regions)
    return found


def region_line(region: Mapping[str, Any], where: str) -> str:
    box: list[int] = []
    for field in ("x", "y", "width", "height"):
        value = region.get(field)
        if not isinstance(value, int):
            raise InputError(f"{where}, {field}: expected a whole number, got {brief(value)}")
        box.append(value)
    x, y, width, height = box
    return f"[{x}, {y}, {x + width}, {y + height}]: {text_at(region, 'phrase', where)}"


def entries(path: str) -> Iterator[Any]:
    """The items of a JSON list, read one by one: Visual Genome's regions are 700 MB, and few of them are needed."""
    decoder, text, place = json.JSONDecoder(), "", 0
    try:
        check_can_end(*locate(path), path)
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            if file.read(1) != "[":
                raise InputError(f"{path}: expected a list")
            while True:
                place = len(text) - len(text[place:].lstrip(", \t\r\n"))
                try:
                    item, place = decoder.raw_decode(text, place)
                except ValueError:
                    if text[place : place + 1] == "]":
                        return
                    if not (more := file.read(max(CHUNK, len(text) - place))):
                        raise InputError(f"{path}: is not JSON, or not whole") from None
                    text, place = text[place:] + more, 0
                    continue
                yield item
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
