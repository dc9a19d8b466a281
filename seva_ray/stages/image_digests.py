"""The images of a prompt set in its recipe: digests of a sample of them, so that their directory may move.

A prompt set may name hundreds of thousands of images, so they are not all read. The recipe has a digest of NUM_IMAGES
of them, and the record has the digest of each. Images at another place are the same if the same sample has the same
digests there.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import TypeVar

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import FingerprintMismatch, InputError
from seva_ray.core.seeds import keys_of
from seva_ray.core.shards import read_each, shards_in
from seva_ray.core.storage import read_table
from seva_ray.vlm.images import read_image

NUM_IMAGES = 64
"""Number of images whose digests are recorded."""
PATHS_AT_ONCE = 4096
T = TypeVar("T")


def sample_of(paths: Iterable[str | None]) -> list[str]:
    """The image paths in the sample, which are chosen by a hash of the path. Only few paths are in memory."""
    sample: dict[str, bytes] = {}
    for some in batched(paths, PATHS_AT_ONCE):
        found = [path for path in dict.fromkeys(some) if path]
        sample |= zip(found, keys_of(0, "image digest", ids=found).tolist(), strict=True)
        sample = dict(sorted(sample.items(), key=itemgetter(1))[:NUM_IMAGES])
    return list(sample)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def digests(image_root: str, sample: Iterable[str]) -> dict[str, str]:
    """A digest of each image in the sample that can be read, by its path."""

    def digest(path: str) -> str | None:
        try:
            data = read_image(path, image_root)
        except (InputError, OSError, ValueError):  # the rows of this image will report it
            return None
        return hashlib.sha256(data).hexdigest()[:16]

    sample = list(sample)
    found = zip(sample, read_each(digest, sample), strict=True)
    return {path: value for path, value in found if value is not None}


def check_moved(prompts: Artifact, image_root: str) -> None:
    """Raises: FingerprintMismatch if the images at `image_root` are not those that the prompts were made with."""
    before = prompts.counts["image_root"]
    known = prompts.counts.get("images")
    if known is None:  # an older version made these prompts: the images can be compared while both places are there
        shards = (prompts.path(shard) for shard in shards_in(prompts.uri))
        sample = sample_of(path for uri in shards for path in read_table(uri, ["image_path"])["image_path"].to_pylist())
        if not sample:
            return  # the prompts themselves hold the images
        known = digests(before, sample)
    now = digests(image_root, known)
    if not known:
        fault = f"no image under {before} can be read any more to compare them"
    elif other := [path for path in known if now.get(path) != known[path]]:
        fault = f"{other[0]} is {'another image' if other[0] in now else 'not readable'} there"
    else:
        return
    raise FingerprintMismatch(
        f"{prompts.name}: made by another recipe (image_root: {before} -> {image_root}; {fault}); "
        f"choose another name, or remove {prompts.uri}"
    )
