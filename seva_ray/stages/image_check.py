"""image_check: opens a sample of the images before a model loads, because a wrong directory is known in a second."""

from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Any

import numpy as np

from seva_ray.core.errors import InputError
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.reasons import Reasons
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import read_each, shard_name
from seva_ray.core.storage import read_table
from seva_ray.vlm.images import load_image

NUM_IMAGES = 64
"""Number of images that are opened for each prompt set."""
NUM_SHARDS = 8
"""Number of shards of prompts from which they are drawn."""


def try_images(
    shards: Iterable[str], image_root: str | None, max_pixels: int, max_unreadable: float, padded: bool = True
) -> None:
    """Open a sample of the images that the prompts of these shards name. Rows with an error of their own do not count.
    `padded`: the model's images are padded to a square, whose pixels count.

    Raises: InputError with the most frequent reason if no image can be opened, or if the share of those that cannot is
    above `max_unreadable`; StorageUnavailable if this machine lacks `image_root`.
    """
    rows = sample_of(shards)

    def reason(row: Mapping[str, Any]) -> str | None:
        try:
            load_image(
                path=row["image_path"],
                data=row["image_bytes"],
                image_root=image_root,
                max_pixels=max_pixels,
                padded=padded,
            )
        except InputError as error:
            if not isinstance(error, StorageUnavailable):
                return str(error)
            raise
        return None

    reasons = Reasons()
    for row, error in zip(rows, read_each(reason, rows), strict=True):
        if error is not None:
            reasons.add(row["prompt_id"], error)
    num_failed = reasons.counts.total()
    if not num_failed or (num_failed < len(rows) and num_failed <= max_unreadable * len(rows)):
        return
    place = f" under {image_root}" if image_root else ""
    raise InputError(
        f"generate: {num_failed} of {len(rows)} images{place} cannot be opened, in a trial before a model loads; "
        f"{reasons.lines(1)[0]}"
    )


def sample_of_shards(numbers: np.ndarray) -> list[int]:
    """The numbers of the shards of which `sample_of` would read any."""
    return nsmallest(NUM_SHARDS, map(int, numbers), key=lambda number: key_of(0, "image check", shard_name(number)))


def sample_of(shards: Iterable[str]) -> list[dict[str, Any]]:
    """Up to NUM_IMAGES usable rows from up to NUM_SHARDS shards, which are chosen by a hash of their names. A shard may
    hold 128 MB of images, so images inside the prompts are all drawn from the first shard that has any."""
    chosen = sorted(set(shards), key=lambda uri: key_of(0, "image check", uri.rpartition("/")[2]))[:NUM_SHARDS]
    rows: list[dict[str, Any]] = []
    inside: str | None = None
    for number, uri in enumerate(chosen):
        table = read_table(uri, ["prompt_id", "image_path", "error"])
        usable = sorted(
            (row for row in table.to_pylist() if row["error"] is None),
            key=lambda row: key_of(0, "image check", row["prompt_id"]),
        )
        left = NUM_IMAGES - len(rows)
        some = usable[: -(-left // (len(chosen) - number))]
        if any(row["image_path"] is None for row in some):
            some = usable[:left] if inside is None else [row for row in some if row["image_path"] is not None]
            inside = inside or uri
        rows += [row | {"shard": uri} for row in some]
    held: dict[str, bytes] = {}
    if inside is not None:
        images, drawn = read_table(inside, ["prompt_id", "image_bytes"]), {row["prompt_id"] for row in rows}
        places = (place for place, name in enumerate(images["prompt_id"].to_pylist()) if name in drawn)
        held = {row["prompt_id"]: row["image_bytes"] for row in images.take(list(places)).to_pylist()}
    return [row | {"image_bytes": held.get(row["prompt_id"]) if row["shard"] == inside else None} for row in rows]
