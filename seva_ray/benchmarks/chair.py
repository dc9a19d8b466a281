"""CHAIR: which COCO objects a description names that are not in the image.

In: COCO's instances_val2014.json and captions_val2014.json, the images of val2014, and synonyms.txt of the published
tool. Each line of it is one object: its name, then the words for it, separated by commas. An object is in an image if
it is outlined there, or if one of the people's captions names it.
Out, in percent: CHAIRs, the descriptions that name an object that is not in the image; CHAIRi, the share of mentions
that are of such objects; recall, the share of the image's objects that are named. Also the words per description.

It finds words as the published tool does (Rohrbach et al., arXiv 1809.02156), with its rules for pairs of words. Two
protocols differ in the words that they find:
`exact-words` finds every word of the synonyms in its singular or plural (nouns.py).
`chair-original` finds what the published tool finds. The tool has wrong singulars of some words ("bus" becomes "bu"),
so it does not count them. It does not find two words that have a second space before them in the published file, and
it does not join a pair of words that a comma separates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from seva_ray.benchmarks.base import LOW_IS_GOOD, AskedWith, Tally, percent, protocol_of, tally_of, text_of
from seva_ray.benchmarks.files import (
    id_at,
    image_at,
    items_at,
    object_at,
    read_json,
    read_text,
    settle_paths,
    text_at,
    unique,
)
from seva_ray.benchmarks.nouns import original_singular, original_words, singular, words_in
from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt, Response
from seva_ray.core.seeds import key_of

QUESTION = "Please describe this image in detail."
COUNTS = ("descriptions", "wrong_descriptions", "mentions", "wrong_mentions", "present", "found", "words")
ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"
PAIRS = (
    {f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS.split()}
    | {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    | {"bow tie": "tie", "toilet seat": "toilet"}
    | {pair: pair for pair in ("home plate", "train track")}
)
"""Pairs of words with their own meaning, besides those in the synonyms: a baby bird is not a person."""


@dataclass(frozen=True)
class Synonyms:
    """The words for each object."""

    names: Mapping[str, str]
    """Word or pair of words -> object."""
    original: bool = False
    """Whether words are found as the published tool finds them, with its errors."""

    @cached_property
    def pairs(self) -> dict[str, str]:
        pairs = {name.strip(): name.strip() for name in self.names if " " in name.strip()} | PAIRS
        return pairs | ({"wine glas": "wine glass"} if self.original else {})

    @cached_property
    def known(self) -> set[str]:
        return {*self.names, *(word for pair in self.pairs for word in pair.split())}

    def mentions(self, text: str) -> list[str]:
        """The objects that a text names, each as often as the text names it."""
        if self.original:
            read = [original_singular(word) for word in original_words(text)]
        else:
            read = [singular(word, self.known) for word in words_in(text)]
        found, place = [], 0
        while place < len(read):
            pair = self.pairs.get(" ".join(read[place : place + 2]))
            found.append(pair or read[place])
            place += 2 if pair else 1
        if "toilet" in found:  # The seat of a toilet is not a chair.
            found = [word for word in found if word != "seat"]
        return [self.names[word] for word in found if word in self.names]


@dataclass(frozen=True, kw_only=True)
class DescribedImage:
    prompt: Prompt
    objects: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Chair(AskedWith):
    """Descriptions of a seeded sample of images."""

    kind: ClassVar[str] = "Chair"

    path: str = place()
    """Folder with instances_val2014.json and captions_val2014.json."""
    image_root: str = place()
    """Folder of the images of val2014."""
    synonyms_path: str = place()
    """The published tool's synonyms.txt."""
    num_images: int = 500
    """Number of images. A larger sample contains the smaller ones."""
    seed: int = 0
    """Seed that chooses the images."""
    protocol: Literal["exact-words", "chair-original"] = "exact-words"
    """The way of finding words. It is part of the recipe."""

    def __post_init__(self) -> None:
        if self.protocol not in ("exact-words", "chair-original"):
            raise ConfigError(f"protocol {self.protocol!r}: must be exact-words or chair-original")
        settle_paths(self, "path", "image_root", "synonyms_path")
        check_least(self, 1, "num_images")
        self.images  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        return f"chair-{protocol_of(self).removeprefix('chair-')}-{self.num_images}-{self.seed}"

    @cached_property
    def synonyms(self) -> Synonyms:
        return read_synonyms(self.synonyms_path, original=self.protocol == "chair-original")

    @cached_property
    def images(self) -> list[DescribedImage]:
        """The sample, with the objects in each image."""
        path = f"{self.path.rstrip('/')}/instances_val2014.json"
        instances = read_json(path, dict)
        files = self._files(instances, path)
        if self.num_images > len(files):
            raise ConfigError(f"num_images {self.num_images}: {path} has only {len(files)} images")
        drawn = sorted(files, key=lambda image_id: key_of(self.seed, image_id, "chair"))[: self.num_images]
        there: dict[str, set[str]] = {image_id: set() for image_id in drawn}
        self._add_outlined(there, instances, path)
        del instances
        self._add_captioned(there)
        return [DescribedImage(prompt=prompt_of(files[image]), objects=frozenset(there[image])) for image in drawn]

    def prompts(self) -> Iterator[Prompt]:
        yield from (image.prompt for image in self.images)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """A missing response counts as a description that names one object, which is not in the image."""
        return tally_of(
            COUNTS,
            (
                (image.prompt.image_id, self._count(image, text_of(responses, image.prompt.prompt_id)))
                for image in self.images
            ),
        )

    def hallucinated(self, responses: Mapping[str, Response]) -> dict[str, list[str]]:
        return {
            image.prompt.prompt_id: sorted(set(self.synonyms.mentions(text)) - image.objects)
            for image in self.images
            if (text := text_of(responses, image.prompt.prompt_id))
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All in percent, except the mean number of words."""
        return {
            f"CHAIRs{LOW_IS_GOOD}": percent(sums["wrong_descriptions"], sums["descriptions"]),
            f"CHAIRi{LOW_IS_GOOD}": percent(sums["wrong_mentions"], sums["mentions"]),
            "CHAIR recall": percent(sums["found"], sums["present"]),
            "CHAIR words": percent(sums["words"], sums["descriptions"]) / 100,
        }

    def _count(self, image: DescribedImage, text: str | None) -> dict[str, float]:
        said = self.synonyms.mentions(text) if text is not None else [""]
        wrong = [name for name in said if name not in image.objects]
        found = len(image.objects.intersection(said))
        values = (1, bool(wrong), len(said), len(wrong), len(image.objects), found, len((text or "").split()))
        return dict(zip(COUNTS, map(float, values), strict=True))

    def _files(self, instances: Mapping[str, Any], path: str) -> dict[str, str]:
        """Image id -> file name."""
        rows = []
        for number, row in enumerate(items_at(instances, "images", path), start=1):
            where = f"{path}, image {number}"
            rows.append((where, id_at(object_at(row, where), "id", where), image_at(row, "file_name", where)))
        return unique(rows, "id", path)

    def _add_outlined(self, there: Mapping[str, set[str]], instances: Mapping[str, Any], path: str) -> None:
        categories = {}
        for number, row in enumerate(items_at(instances, "categories", path), start=1):
            where = f"{path}, category {number}"
            name = text_at(object_at(row, where), "name", where)
            if name not in self.synonyms.names:
                raise InputError(f"{where}, name: {name!r} is not in {self.synonyms_path}")
            categories[id_at(row, "id", where)] = self.synonyms.names[name]
        for number, row in enumerate(items_at(instances, "annotations", path), start=1):
            where = f"{path}, annotation {number}"
            if (image_id := id_at(object_at(row, where), "image_id", where)) in there:
                if (category := id_at(row, "category_id", where)) not in categories:
                    raise InputError(f"{where}, category_id: {category} is not among the categories")
                there[image_id].add(categories[category])

    def _add_captioned(self, there: Mapping[str, set[str]]) -> None:
        path = f"{self.path.rstrip('/')}/captions_val2014.json"
        captioned = set()
        for number, row in enumerate(items_at(read_json(path, dict), "annotations", path), start=1):
            where = f"{path}, annotation {number}"
            if (image_id := id_at(object_at(row, where), "image_id", where)) in there:
                captioned.add(image_id)
                there[image_id].update(self.synonyms.mentions(text_at(row, "caption", where)))
        if missing := sorted(set(there) - captioned):
            raise InputError(f"{path}: has no caption for {len(missing)} of the images, such as image {missing[0]}")


def prompt_of(image: str) -> Prompt:
    return Prompt(prompt_id=image, image_id=image, question=QUESTION, source="chair", image_path=image)


def read_synonyms(path: str, original: bool = False) -> Synonyms:
    """The words of each line. The published tool keeps a second space before a word as a part of the word."""
    names: dict[str, str] = {}
    for line in read_text(path).splitlines():
        words = line.strip().split(", ") if original else [word.strip() for word in line.split(",")]
        if group := [word for word in words if word.strip()]:
            names |= dict.fromkeys(group, group[0])
    if not names:
        raise InputError(f"{path}: has no words")
    return Synonyms(names, original)
