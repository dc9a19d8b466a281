"""Whole directories, such as models: moved or uploaded to a root, and copied from it, by URI."""

import errno
import os
import shutil
from functools import partial

from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.listing import linked_files, make_directory
from seva_ray.core.patience import patient, patiently
from seva_ray.core.storage import locate


def write_directory(uri: str, directory: str) -> None:
    """Move or upload a finished local directory to `uri`, and replace what was there.

    Files get the mode of any new file. safetensors makes weights that only their owner can read, so that on a shared
    disk nobody else could evaluate a policy.
    """
    filesystem, path = locate(uri)
    mode = 0o666 & ~umask()
    for name in patiently(lambda: linked_files(LocalFileSystem(), directory), directory):
        patiently(partial(os.chmod, f"{directory}/{name}", mode), directory)
    if isinstance(filesystem, LocalFileSystem):
        patiently(lambda: move_directory(directory, path), uri)
        return

    def upload() -> None:
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)
        filesystem.put(directory.rstrip("/") + "/", path, recursive=True)

    patiently(upload, uri)


def move_directory(directory: str, path: str) -> None:
    """Move a directory to a local path, and replace what was there. It may be done again after it has failed."""
    if not os.path.lexists(directory) and os.path.lexists(path):
        return  # the disk has done it, and said otherwise
    shutil.rmtree(path, ignore_errors=True)
    make_directory(os.path.dirname(path))
    try:
        os.rename(directory, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = f"{path}.part"  # on another disk; the source stays until all of it is there
        copy_directory(directory, part)
        os.rename(part, path)
        shutil.rmtree(directory, ignore_errors=True)


def copy_directory(source: str, target: str) -> None:
    """Copy the files of a local directory. Each is tried again while a disk does not answer."""
    make_directory(target)
    for name in linked_files(LocalFileSystem(), source):
        file, copy = os.path.join(source, name), os.path.join(target, name)
        make_directory(os.path.dirname(copy))
        patiently(partial(shutil.copyfile, file, copy), copy)


def umask() -> int:
    """The bits that new files of this process do not get in their modes. `os.umask` can only change them, for all
    threads, so it is asked on systems alone that tell it in no other way, such as macOS."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            return int(next(line.split()[1] for line in status if line.startswith("Umask:")), 8)
    except FileNotFoundError:
        os.umask(mask := os.umask(0o077))
        return mask


@patient
def fetch_directory(uri: str, directory: str) -> None:
    """Copy a local or remote directory to the local path `directory`."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        copy_directory(path, directory)
    else:
        filesystem.get(path.rstrip("/") + "/", directory, recursive=True)
