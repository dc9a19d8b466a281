"""Digests of large files, such as weights, which are kept: a file is hashed once, and not again until it changes."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.contents import TAGS, sha256_of, tag_of
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.home import cache_directory
from seva_ray.core.patience import patient
from seva_ray.core.storage import locate

KEPT_BYTES = 64 * 2**20
"""Digests of files of this size or more are kept, in bytes."""
SETTLED_S = 10.0
"""A digest is kept if the file was older than this, in seconds. A disk's clock may be too coarse to tell two writes in
the same moment apart."""


@patient
def digest(file: Path | str, cache: str = "", check: Callable[[], None] | None = None) -> str:
    """SHA-256 of a local file or of one in an object store, which takes about a second per GB. That of a large file is
    kept, by its path, size and times, or by its URI, size and the tag that the store gives to its contents.

    The time of the last change of a local file's inode is one of them. No copying tool can set it back. A remote file
    is read as a stream, and no copy of it is made. `check` is called before a file is hashed. A kept digest means that
    it has passed.
    """
    filesystem, path = locate(str(file))
    state = state_of(filesystem, path, str(file))
    kept = cache_directory("seva_ray_digests", cache) / fingerprint_of(state) if state else None
    if kept:
        with contextlib.suppress(OSError):
            return kept.read_text(encoding="utf-8")
    if check:
        check()
    made = sha256_of(filesystem, path)
    if kept and not is_new(filesystem, path):
        with contextlib.suppress(OSError):  # a home that cannot be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{kept.name}.{os.getpid()}")
            part.write_text(made, encoding="utf-8")
            part.replace(kept)
    return made


def state_of(filesystem: Any, path: str, uri: str) -> dict[str, Any] | None:
    """What changes whenever a large file changes; None if its digest is not to be kept."""
    if isinstance(filesystem, LocalFileSystem):
        status = os.stat(path)
        if status.st_size < KEPT_BYTES:
            return None
        times = [status.st_mtime_ns, status.st_ctime_ns]
        return {"path": os.path.realpath(path), "file": [status.st_dev, status.st_ino, status.st_size, *times]}
    item = filesystem.info(path)
    tag = tag_of(item, TAGS)
    return {"uri": uri, "size": item["size"], "tag": tag} if item["size"] >= KEPT_BYTES and tag else None


def is_new(filesystem: Any, path: str) -> bool:
    """Whether a local file was written so lately that it may change again without another time."""
    if not isinstance(filesystem, LocalFileSystem):
        return False
    status = os.stat(path)
    return time.time() - max(status.st_mtime, status.st_ctime) <= SETTLED_S
