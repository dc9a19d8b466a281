"""What is at a place of a filesystem. An error of a disk stays an error here, and never becomes an absence.

Python and fsspec take every error of a mount for an absence: `exists` is False, and a listing is empty. A job would
then make again what is there, or give a directory another digest.
"""

import os
import stat
from collections import Counter
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.errors import InputError
from seva_ray.core.patience import is_outage

HOLLOW_BYTES = 2**30
"""Size from which on a file is suspected of being a hole, in bytes."""
MOST_WAYS = 100
"""Largest number of ways in which links may lead to one directory."""


def kind_of(filesystem: Any, path: str) -> str | None:
    """`file`, `directory` or `other`; None if nothing is there. Raises: the error of a place that does not answer."""
    try:
        kind: str = filesystem.info(path)["type"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if is_outage(error) or not isinstance(filesystem, LocalFileSystem):
            raise
        return None  # a path that no file can have
    return kind


def check_can_end(filesystem: Any, path: str, uri: str) -> None:
    """Raises: InputError if a pipe, a socket, a device or a hole of a terabyte is at a local place: reading it might
    never end."""
    if isinstance(filesystem, LocalFileSystem) and kind_of(filesystem, path) == "other":
        raise InputError(f"{uri}: is a pipe, a socket or a device, and must be a file")
    if is_hollow(filesystem, path):
        raise InputError(f"{uri}: has {os.stat(path).st_size:,} bytes, and hardly any was ever written; copy it again")


def is_hollow(filesystem: Any, path: str) -> bool:
    """Whether a large local file is nearly all hole, as one whose download has only begun. A disk that compresses also
    stores less than a file's size, but no file of data a thousandth of it. A file that lies on a tape or in a cloud
    until it is read stores next to nothing, and its system knows of no hole."""
    if not isinstance(filesystem, LocalFileSystem):
        return False
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:
        if is_outage(error):
            raise
        return False
    if not stat.S_ISREG(facts.st_mode) or facts.st_size <= HOLLOW_BYTES or facts.st_blocks * 512 > facts.st_size / 1000:
        return False
    with open(path, "rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < facts.st_size


def found_in(filesystem: Any, path: str) -> dict[str, Any]:
    """The listing of each file below a directory, at any depth, by its path. Links to directories are not followed."""
    found: dict[str, Any] = {}
    if not isinstance(filesystem, LocalFileSystem):
        found |= filesystem.find(path, detail=True)
        return found
    directories = [path]
    while directories:
        try:
            items = filesystem.ls(directories.pop(), detail=True)
        except FileNotFoundError:  # it is not there, or was removed in the meantime
            continue
        directories += [item["name"] for item in items if item["type"] == "directory"]
        found |= {item["name"]: item for item in items if item["type"] != "directory"}
    return dict(sorted(found.items()))


def unless_gone(error: OSError) -> None:
    """Raise the error of a listing, unless the directory is not there or was removed in the meantime."""
    if not isinstance(error, FileNotFoundError):
        raise error


def linked_files(filesystem: Any, path: str) -> list[str]:
    """The files below a directory, at any depth, as paths in it. Links to directories are followed, which fsspec does
    not do; a link that leads back to a directory above itself is left out.

    Raises: InputError if links lead to one directory in more than MOST_WAYS ways, as between folders that all have
    links to each other.
    """
    start = len(path.rstrip("/")) + 1
    if not isinstance(filesystem, LocalFileSystem):
        return [name[start:] for name in filesystem.find(path)]
    found, above, ways = [], {path: {os.path.realpath(path)}}, Counter[str]()
    for directory, inner, names in os.walk(path, onerror=unless_gone, followlinks=True):
        seen = above.pop(directory)
        real = {name: os.path.realpath(os.path.join(directory, name)) for name in inner}
        inner[:] = sorted(name for name in inner if real[name] not in seen)
        ways.update(real[name] for name in inner)
        if inner and (most := ways.most_common(1)[0])[1] > MOST_WAYS:
            raise InputError(f"{path}: links lead to {most[0]} in more than {MOST_WAYS} ways")
        above |= {os.path.join(directory, name): seen | {real[name]} for name in inner}
        found += [os.path.join(directory, name)[start:] for name in names]
    return sorted(found)


def make_directory(path: str) -> None:
    """Make a local directory with those above it, unless it is there."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:  # also if the disk could not tell whether it is there, which `stat` then says
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise
