"""A folder of images with fixed questions about each: the quickest way to preference pairs from your own pictures.

In: image files, at any depth. Out: prompts in the order of the file names, with the questions about an image next to
each other.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from seva_ray.core.contents import is_hidden
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.listing import kind_of, linked_files
from seva_ray.core.patience import patiently
from seva_ray.core.records import Prompt
from seva_ray.core.storage import absolute, locate
from seva_ray.sources.base import check_names, checked

log = logging.getLogger(__name__)

NOT_READ = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
"""Suffixes of image files in formats that are not decoded."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Asks every question about every image."""

    kind: ClassVar[str] = "Folder"

    path: str = place()
    """The folder of images: a local directory or an fsspec URI. Links to other folders
    are followed. Files and folders whose names begin with a dot are left out."""
    questions: tuple[str, ...] = ("Describe this image in detail.",)
    """Questions that are asked about each image."""
    suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    """Suffixes of image files, in lower case. Upper and lower case of the files' own suffixes does not matter."""
    source: str = "folder"
    """Name of the source of these prompts, as shown in reports."""

    def __post_init__(self) -> None:
        check_names(self, "path", "questions", "suffixes", "source")
        object.__setattr__(self, "path", absolute(self.path))
        for question in self.questions:
            if not question.strip():
                raise ConfigError(f"questions {self.questions}: one of them is empty")
        for suffix in self.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower():
                raise ConfigError(f"suffixes {suffix!r}: must be a dot and lower-case letters")

    @property
    def image_root(self) -> str:
        return self.path

    def prompts(self) -> Iterator[Prompt]:
        yield from checked(self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        for name in self._names():
            for index, question in enumerate(self.questions):
                prompt_id = f"{name}-{index}"
                yield Prompt(prompt_id=prompt_id, image_id=name, question=question, source=self.source, image_path=name)

    def reads(self, name: str) -> bool:
        """Whether a file of the folder is an image to ask about."""
        return name.lower().endswith(self.suffixes)

    def _names(self) -> list[str]:
        """Sorted paths of the images, relative to the folder. Raises: InputError if there are none."""
        filesystem, path = locate(self.path)
        if (kind := patiently(lambda: kind_of(filesystem, path), self.path)) != "directory":
            fault = "is a file, and must be a directory of images" if kind == "file" else "no such directory"
            raise InputError(f"{self.path}: {fault}")
        found = patiently(lambda: linked_files(filesystem, path), self.path)
        seen = [name for name in found if not is_hidden(name)]
        names = sorted(name for name in seen if self.reads(name))
        others = Counter(suffix for name in seen if (suffix := suffix_of(name)) not in self.suffixes)
        if not names:
            there = f"; it has {counted(others)}" if others else ""
            raise InputError(f"{self.path}: no image in this directory (suffixes {', '.join(self.suffixes)}){there}")
        if left_out := Counter({suffix: count for suffix, count in others.items() if suffix in NOT_READ}):
            log.warning("%s: left out %s; save them as JPEG or PNG to use them", self.path, counted(left_out))
        return names


def suffix_of(name: str) -> str:
    _, dot, suffix = name.lower().rpartition("/")[2].rpartition(".")
    return f"{dot}{suffix}" if dot else "no suffix"


def counted(suffixes: Counter[str]) -> str:
    """The most frequent suffixes, each with its number of files."""
    return ", ".join(f"{count:,} of {suffix}" for suffix, count in suffixes.most_common(4))
