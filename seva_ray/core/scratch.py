"""Local directories for files that are soon removed, such as checkpoints on their way to the root.

A process that is killed leaves its directory behind, which may hold 40 GB. The next one that makes such a directory on
that machine removes it: a directory is locked by its process, and the lock ends with the process.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seva_ray.core.errors import InputError

SCRATCH_VARIABLE = "SEVA_SCRATCH"
"""The environment variable with the place of such directories on a node. By default it is Python's: TMPDIR, or /tmp."""
YOUNG_S = 60.0
"""A directory that was changed within this time, in seconds, may belong to a process that has not locked it yet."""


@contextmanager
def scratch_directory(prefix: str) -> Iterator[str]:
    """A new directory whose name begins with `prefix`, which is removed at the end. Raises: InputError if SEVA_SCRATCH
    names no directory that can be written."""
    place = os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir()
    try:
        os.makedirs(place, exist_ok=True)
        remove_abandoned(place, prefix)
        scratch = tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(f"{SCRATCH_VARIABLE} {place}: {error.strerror}") from None
    with scratch as directory:
        lock = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield directory
        finally:
            os.close(lock)


def remove_abandoned(place: str, prefix: str) -> None:
    """Remove directories of this prefix whose process has ended."""
    for directory in Path(place).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # it is another user's, or gone, or its process lives
            if time.time() - directory.stat().st_mtime < YOUNG_S:
                continue
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
