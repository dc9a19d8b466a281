"""Outlines of remote directories: small files as they are, and of each large file only its size and its first bytes.

A driver needs a model's settings, its processor and the headers of its weights, but not 14 GB of weights. Engines and
training workers copy the whole directory to their nodes (node_cache.py).
"""

import os
import shutil
import struct
import uuid
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.home import cache_directory
from seva_ray.core.node_cache import listing_of, local_directory
from seva_ray.core.patience import patient
from seva_ray.core.storage import locate

LARGE_BYTES = 64 * 2**20
"""Files of this size or more are large, in bytes."""
MOST_HEADER_BYTES = 100_000_000
"""The largest header that the safetensors library reads."""


@patient
def local_outline(uri: str, cache: str = "") -> str:
    """The directory itself if it is local, otherwise an outline of it on this machine. A large file in it has its whole
    size, but takes no space, and after its header (safetensors) it holds zeros.

    Raises: InputError if the remote directory does not exist.
    """
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path
    listing = listing_of(filesystem, path, uri)
    if any(tag is None for _, tag in listing.values()):  # only a copy of all of it shows whether it has changed
        return local_directory(uri)
    copies = cache_directory("seva_ray_outlines", cache)
    target = copies / fingerprint_of({"uri": uri, "files": listing})
    if not target.exists():
        part = copies / f"{uuid.uuid4().hex}.part"
        try:
            for name, (size, _) in listing.items():
                copy = part / name[len(path.rstrip("/")) + 1 :]
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(beginning(filesystem, name, size))
                os.truncate(copy, size)
            if not target.exists():
                part.rename(target)
        except OSError:
            if not target.exists():  # another process may have made it in the same moment
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return str(target)


def beginning(filesystem: Any, path: str, size: int) -> bytes:
    """A small file, or what a large one begins with: eight bytes with the length of its header, and the header."""
    if size < LARGE_BYTES:
        return bytes(filesystem.cat_file(path))
    (length,) = struct.unpack("<Q", filesystem.cat_file(path, start=0, end=8))
    return bytes(filesystem.cat_file(path, start=0, end=8 + (length if length <= MOST_HEADER_BYTES else 0)))
