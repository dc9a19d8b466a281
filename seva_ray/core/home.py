"""The home directory of this user, and what takes its place if it cannot be written, as in containers with another user
or a read-only root.

Whether a directory can be written is tried, because its rights do not tell it for a full disk, for a quota that is used
up or for a home that is no directory.
"""

import os
import tempfile
from functools import cache
from pathlib import Path

WRITTEN = bytes(4096)
"""What a trial writes: a full disk still takes an empty file."""


@cache
def can_be_written(directory: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=directory) as trial:
            trial.write(WRITTEN)
            trial.flush()
    except OSError:
        return False
    return True


def own_directory() -> Path:
    """A directory of this user beside temporary files, which only the user can read."""
    other = Path(tempfile.gettempdir(), f"seva-home-{os.getuid()}")
    other.mkdir(mode=0o700, exist_ok=True)
    if other.is_symlink() or other.stat().st_uid != os.getuid():  # another user has taken the name
        other = Path(tempfile.mkdtemp(prefix="seva-home-"))
    return other


def cache_directory(name: str, other: str = "") -> Path:
    """The directory of this name for copies that can be made again: in `~/.cache`, or in `own_directory` if the home
    cannot be written; or the directory `other`, if it is given. It may not exist yet."""
    if other:
        return Path(other).expanduser()
    caches = Path(os.path.expanduser("~"), ".cache")
    if caches.is_absolute() and can_be_written(str(caches if os.path.isdir(caches) else caches.parent)):
        return caches / name
    return own_directory() / "cache" / name
