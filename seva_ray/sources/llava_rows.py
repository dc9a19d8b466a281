"""Rows of a LLaVA instruction file: what is wrong with one, which source it is of, and which images are drawn.

The file is read once. So the rows of the images with the smallest keys are kept while it is read, and the rows of an
image are dropped when enough smaller keys have come.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from seva_ray.core.seeds import key_of

SOURCES = ("ocr_vqa", "textvqa", "gqa", "vg", "coco")
"""Folders of the published file, whose questions have a rule of their own by which they are cleaned."""

OWN_FOLDER = "images"
"""The source of a row whose image path has no folder."""

Row = dict[str, Any]


@dataclass(kw_only=True)
class Images:
    """The images of one source that are drawn, with their rows: those with the smallest keys of all that were added."""

    seed: int
    most: int
    """Largest number of images; 0 for all."""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """Rows by image path."""
    largest: list[tuple[int, str]] = field(default_factory=list)
    """The negative keys of the images as a heap, if not all are taken."""

    def key(self, image: str) -> int:
        return key_of(self.seed, image, "image")

    def add(self, image: str, row: Row) -> None:
        if image not in self.rows:
            if self.most and len(self.rows) == self.most:
                if -self.key(image) < self.largest[0][0]:
                    return
                del self.rows[heappop(self.largest)[1]]
            if self.most:
                heappush(self.largest, (-self.key(image), image))
            self.rows[image] = []
        self.rows[image].append(row)

    def drawn(self) -> list[str]:
        """The images in the order of the draw."""
        return sorted(self.rows, key=self.key)


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


def until_published(rows: Iterator[Any], image_root: str) -> tuple[list[Any], set[str]]:
    """The rows up to the first one of a source of the published file. If there is none, these are all rows, and the
    folders of all images come with them."""
    first: list[Any] = []
    there: set[str] = set()
    for row in rows:
        first.append(row)
        folder = folder_of(row, image_root)
        if folder in SOURCES:
            return first, set()
        there.add(folder)
    return first, there - {""}


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
