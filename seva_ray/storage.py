"""Files on a local disk or in an object store, by URI: whole or not at all."""

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from seva_ray.errors import InputError
from seva_ray.fingerprints import fingerprint_of


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem and the path in it. Without its cache of listings, which knows nothing of what others write."""
    return fsspec.core.url_to_fs(uri, use_listings_cache=False)


def is_local(uri: str) -> bool:
    return isinstance(locate(uri)[0], LocalFileSystem)


def exists(uri: str) -> bool:
    filesystem, path = locate(uri)
    return filesystem.exists(path)


def names_in(uri: str) -> set[str]:
    """Names of the files in a directory; none where there is no such directory."""
    filesystem, path = locate(uri)
    return {name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)} if filesystem.exists(path) else set()


def read_bytes(uri: str) -> bytes:
    filesystem, path = locate(uri)
    return filesystem.cat_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """All or nothing: a rename on a local disk, a single put in an object store. Writing twice is harmless."""
    filesystem, path = locate(uri)
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        error.filename = path  # a full disk's error does not say where
        raise
    finally:
        if os.path.exists(part):
            os.remove(part)


def remove(uri: str) -> None:
    """Without an error where there is no such file."""
    filesystem, path = locate(uri)
    if filesystem.exists(path):
        filesystem.rm_file(path)


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    filesystem, path = locate(uri)
    with filesystem.open(path, "rb") as file:
        return pq.read_table(file, columns=list(columns) if columns else None)


def read_part(uri: str, part: int) -> pa.Table:
    """One row group of a table's file."""
    filesystem, path = locate(uri)
    with filesystem.open(path, "rb") as file:
        return pq.ParquetFile(file).read_row_group(part)


def part_sizes(uri: str) -> list[int]:
    """Rows in each row group of a table's file."""
    filesystem, path = locate(uri)
    with filesystem.open(path, "rb") as file:
        metadata = pq.read_metadata(file)
    return [metadata.row_group(part).num_rows for part in range(metadata.num_row_groups)]


def write_table(uri: str, table: pa.Table, part_bytes: int | None = None) -> None:
    """`part_bytes`: about as many bytes of the table go into each row group, and at least one row. None: all in one."""
    sink = pa.BufferOutputStream()
    rows = max(1, len(table) * part_bytes // max(1, table.nbytes)) if part_bytes else None
    pq.write_table(table, sink, compression="zstd", row_group_size=rows)
    write_bytes(uri, sink.getvalue().to_pybytes())


def write_directory(uri: str, directory: str) -> None:
    """Moves or uploads a finished local directory to `uri`, in place of what is there."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.move(directory, path)
    else:
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)
        filesystem.put(directory.rstrip("/") + "/", path, recursive=True)


def fetch_directory(uri: str, directory: str) -> None:
    """A copy of a directory, local or remote, at the local path `directory`."""
    filesystem, path = locate(uri)
    filesystem.get(path.rstrip("/") + "/", directory, recursive=True)


def local_directory(uri: str, cache: str = "~/.cache/seva_ray") -> str:
    """The directory itself where it is local, else a copy of it on this machine, made once: a node's encoding tasks
    and engines, which all start together, wait for the one among them that fetches it.

    Raises: InputError where there is no such remote directory.
    """
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path
    found = filesystem.find(path, detail=True)
    if not found:
        raise InputError(f"{uri}: no such directory")
    listing = {name: [item["size"], str(item.get("ETag", ""))] for name, item in found.items()}
    target = Path(cache).expanduser() / fingerprint_of({"uri": uri, "files": listing})
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.parent / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process
            if not target.exists():
                part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
                filesystem.get(path.rstrip("/") + "/", str(part), recursive=True)
                part.rename(target)
    return str(target)


def contents(uri: str) -> str:
    """A digest of a file's bytes, or of a directory's file names and sizes."""
    filesystem, path = locate(uri)
    if filesystem.isdir(path):
        found = filesystem.find(path, detail=True)
        return fingerprint_of({name.removeprefix(path): item["size"] for name, item in found.items()})
    digest = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()[:16]
