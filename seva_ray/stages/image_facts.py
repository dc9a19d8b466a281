"""The images of a prompt set, as they were when it was made: an image that was replaced since is noticed.

`images/<shard>` in the artifact has the size of each image of a shard, and its time (on a disk) or tag (in an object
store). They cost no read. With `--prepare.verify` it has a digest of each image too. Answers to the old image are no
answers to the new one, so a set with a replaced image is refused.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.artifacts import Artifact
from seva_ray.core.contents import TAGS, TIMES, tag_of
from seva_ray.core.errors import FingerprintMismatch, InputError
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import read_each, shards_in
from seva_ray.core.storage import exists, is_local, locate, read_table, write_table
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import Progress, say
from seva_ray.vlm.images import read_image

FREE = {True: 100_000, False: 1_000}
"""Number of prompts whose images are looked at without `verify`: on a local disk, and in an object store, where each
takes a request."""
SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("tag", pa.string()), ("sha256", pa.string())])

Facts = dict[str, Any]
"""One row of SCHEMA."""


@dataclass(kw_only=True)
class Changes:
    """What has happened to the images of a shard, or of several."""

    replaced: dict[str, str] = field(default_factory=dict)
    """How an image that is another one differs, by its path."""
    rewritten: list[str] = field(default_factory=list)
    """Images that were written again with as many bytes, and of which no digest is known."""


def check_unchanged(prompts: Artifact, verify: bool, moved: bool = False) -> None:
    """Compare the images with what was noted about them, and note what was not. Without `verify` no image is read but
    those whose time or tag has changed, and of which a digest is known. Images that were `moved` may have other times.

    Raises: FingerprintMismatch if an image is another one.
    """
    root, label = prompts.counts["image_root"], prompts.name.removeprefix("prompts/")
    shards = shards_in(prompts.uri)
    if not verify:
        most = FREE[is_local(root)] // max(1, -(-prompts.counts["num_prompts"] // max(1, len(shards))))
        shards = sorted(shards, key=lambda name: key_of(0, "image facts", name))[: max(1, most)]
    found = Changes()
    progress = Progress("prepare", len(shards), "shards of images read") if verify else None
    with waiting(f"prepare {label}: {'reading' if verify else 'looking at'} the images"):
        for changes in read_each(lambda shard: changes_in(prompts, root, shard, verify, moved), shards):
            found.replaced |= changes.replaced
            found.rewritten += changes.rewritten
            if progress:
                progress.add(1)
    if found.replaced:
        path, what = next(iter(found.replaced.items()))
        number = f"{len(found.replaced):,} images are others" if len(found.replaced) > 1 else "an image is another one"
        raise FingerprintMismatch(
            f"{prompts.name}: {number} than when it was made: {path} under {root} {what}; choose another name for the "
            "prompts, or put the images back"
        )
    if found.rewritten:
        say(
            f"prepare {label}: {len(found.rewritten):,} images under {root} were written again since, with as many "
            f"bytes, such as {found.rewritten[0]}; they are taken for the same, as no digest of them is known"
        )


def changes_in(prompts: Artifact, root: str, shard: str, verify: bool, moved: bool) -> Changes:
    """What has happened to the images of one shard. What is new about them is noted."""
    place = prompts.path("images", shard)
    before = {row["path"]: row for row in read_table(place).to_pylist()} if exists(place) else {}
    paths = read_table(prompts.path(shard), ["image_path"])["image_path"].to_pylist()
    changes, noted, digests = Changes(), dict(before), prompts.counts.get("images") or {}
    for path in dict.fromkeys(path for path in paths if path):
        now = facts_of(root, path, verify)
        if now is None:
            continue  # it is gone, or was never there; the rows of this image report it
        was = before.get(path)
        if was is None:
            noted[path] = now
            continue
        known = was["sha256"] or digests.get(path)
        if now["bytes"] != was["bytes"]:
            changes.replaced[path] = f"has {now['bytes']:,} bytes, and had {was['bytes']:,}"
        elif now["tag"] != was["tag"] or verify:
            digest = now["sha256"] or (known and digest_of(root, path))
            if known and digest and not digest.startswith(known):
                changes.replaced[path] = "has other contents"
            elif known or moved or now["tag"] == was["tag"]:
                noted[path] = now | {"sha256": digest or was["sha256"]}
            elif is_local(root):
                changes.rewritten.append(path)
            else:
                changes.replaced[path] = "is another file"
    if noted != before:
        write_table(place, pa.Table.from_pylist(list(noted.values()), SCHEMA))
    return changes


def facts_of(root: str, path: str, read: bool) -> Facts | None:
    """What can be known about an image, with a digest if it is to be read; None if there is no such image."""
    filesystem, start = locate(root)
    full = f"{start.rstrip('/')}/{path}"
    tag: str | None
    try:
        if isinstance(filesystem, LocalFileSystem):
            status = os.stat(full)  # of the file that a link names
            size, tag = status.st_size, str(status.st_mtime_ns)
        else:
            item: Mapping[str, Any] = filesystem.info(full)
            size, tag = item["size"], tag_of(item, (*TAGS, *TIMES))
        return {"path": path, "bytes": size, "tag": tag, "sha256": digest_of(root, path) if read else None}
    except (OSError, ValueError, InputError):
        return None


def digest_of(root: str, path: str) -> str:
    """Raises: InputError, OSError if the image cannot be read."""
    return hashlib.sha256(read_image(path, root)).hexdigest()
