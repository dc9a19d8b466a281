"""A node's copies of remote directories, such as models. When they take too much space, those used least go first."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.contents import TAGS, TIMES, contents, tag_of
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.home import cache_directory
from seva_ray.core.patience import patient
from seva_ray.core.storage import locate

LIMIT_VARIABLE = "SEVA_NODE_CACHE_BYTES"
"""The environment variable with the limit for all copies of a node, in bytes."""
LIMIT_SHARE = 0.5
"""The share of the disk that the copies may take if that variable is not set."""
NUM_HELD = 2
"""Number of copies, the last ones that it asked for, that a process keeps others from removing."""

held: dict[str, int] = {}
"""Open descriptors of the copies that this process holds, by path. Each has a lock, which ends with the process."""


@patient
def local_directory(uri: str, cache: str = "") -> str:
    """The directory itself if it is local, otherwise a copy on this machine. A node's encoding tasks and engines all
    start together; one of them makes the copy, and the others wait for it.

    Raises: InputError if the remote directory does not exist.
    """
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path
    listing = listing_of(filesystem, path, uri)
    copies = cache_directory("seva_ray", cache)
    # Without tags, only the contents show whether a copy is up to date: they are fetched each time, but kept once.
    tagged = all(tag is not None for _, tag in listing.values())
    target = copies / fingerprint_of({"uri": uri, "files": listing}) if tagged else None
    if target is not None and hold(target):
        return str(target)
    copies.mkdir(parents=True, exist_ok=True)
    with locked(copies):
        if target is None or not target.exists():
            remove_oldest(copies, sum(size for size, _ in listing.values()))
            target = fetched(filesystem, path, uri, copies, target)
        hold(target)
    return str(target)


def listing_of(filesystem: Any, path: str, uri: str) -> dict[str, tuple[int, str | None]]:
    """The size of each file of a directory, and the tag that its store gives it. Raises: InputError if it has none."""
    found = filesystem.find(path, detail=True)
    if not found:
        raise InputError(f"{uri}: no such directory")
    return {name: (item["size"], tag_of(item, (*TAGS, *TIMES))) for name, item in found.items()}


def fetched(filesystem: Any, path: str, uri: str, copies: Path, target: Path | None) -> Path:
    """Copy the directory to `target`, or to a name that follows from its contents. Returns that name."""
    part = copies / f"{uuid.uuid4().hex}.part"
    filesystem.get(path.rstrip("/") + "/", str(part), recursive=True)
    target = target or copies / fingerprint_of({"uri": uri, "contents": contents(str(part))})
    if target.exists():
        shutil.rmtree(part)
    else:
        part.rename(target)
    return target


@contextmanager
def locked(copies: Path) -> Iterator[None]:
    """Only one process of the node adds or removes copies. The lock ends with the process."""
    with open(copies / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hold(target: Path) -> bool:
    """Keep other processes from removing the copy, and note the time. Return False if there is no such copy."""
    try:
        copy = os.open(target, os.O_RDONLY)
    except FileNotFoundError:
        return False
    fcntl.flock(copy, fcntl.LOCK_SH)
    if not target.exists() or os.fstat(copy).st_ino != os.stat(target).st_ino:  # it was removed in the meantime
        os.close(copy)
        return False
    os.utime(copy)
    if (before := held.pop(str(target), None)) is not None:
        os.close(before)
    held[str(target)] = copy
    release(NUM_HELD)
    return True


def release(keep: int = 0) -> None:
    """Hold only the `keep` copies that were asked for last."""
    for path in list(held)[: len(held) - keep]:
        os.close(held.pop(path))


def remove_oldest(copies: Path, num_bytes: int) -> None:
    """Remove copies, those that were asked for longest ago first, until `num_bytes` more are within the limit. What a
    process holds stays. Half-made copies, which killed processes left, go first."""
    for part in copies.glob("*.part"):
        shutil.rmtree(part, ignore_errors=True)
    sizes = {path: size_of(path) for path in copies.iterdir() if path.is_dir()}
    left = sum(sizes.values()) + num_bytes - limit_of(copies)
    for path in sorted(sizes, key=lambda path: path.stat().st_mtime):
        if left <= 0:
            return
        if removed(path):
            left -= sizes[path]


def removed(copy: Path) -> bool:
    """Remove a copy, unless a process holds it."""
    directory = os.open(copy, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = copy.with_name(f"{uuid.uuid4().hex}.part")
        copy.rename(gone)
    except BlockingIOError:
        return False
    finally:
        os.close(directory)
    shutil.rmtree(gone, ignore_errors=True)
    return True


def limit_of(copies: Path) -> float:
    """The limit for all copies, in bytes. Raises: InputError if the variable is no number."""
    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        return LIMIT_SHARE * shutil.disk_usage(copies).total
    if not given.isdecimal():
        raise InputError(f"{LIMIT_VARIABLE} {given!r}: must be a number of bytes")
    return int(given)


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
