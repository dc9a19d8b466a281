"""Files on a local disk or in an object store, by URI. A file is written as a whole or not at all."""

import contextlib
import errno
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.errors import InputError, line_of
from seva_ray.core.listing import found_in, kind_of, make_directory, unless_gone
from seva_ray.core.patience import is_outage, patient, patiently
from seva_ray.core.scratch import scratch_directory

NUM_READERS = 16
"""Number of files that one process reads at once."""


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem and the path in it. Its cache of listings is off, because it misses what other processes write.
    Raises: InputError for a kind of storage that is unknown, or whose library is not installed."""
    try:
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise InputError(f"{uri}: {line_of(error)}") from None


def absolute(uri: str | os.PathLike[str]) -> str:
    """The absolute path, which works in every worker's directory. URIs stay unchanged."""
    path = os.fspath(uri)
    return path if "://" in path or "::" in path else os.path.abspath(os.path.expanduser(path))


def is_local(uri: str) -> bool:
    return isinstance(locate(uri)[0], LocalFileSystem)


@patient
def exists(uri: str) -> bool:
    return kind_of(*locate(uri)) is not None


@patient
def is_directory(uri: str) -> bool:
    return kind_of(*locate(uri)) == "directory"


@patient
def names_in(uri: str) -> set[str]:
    """Names of the files in a directory; an empty set if the directory does not exist."""
    filesystem, path = locate(uri)
    try:
        return {name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)}
    except FileNotFoundError:  # in an object store, a directory is gone when another process removes its last file
        return set()


def lies_in(path: str, directory: str) -> bool:
    """Whether a local path or URI is this directory or lies in it, also if one of them leads through a link."""
    here, there = (f"{each.rstrip('/')}/" for each in (path, directory))
    if "://" not in here + there:
        here, there = (f"{os.path.realpath(each)}/" for each in (here, there))
    return here.startswith(there)


@patient
def files_in(uri: str) -> list[str]:
    """The files below a directory, at any depth, as paths in it."""
    filesystem, path = locate(uri)
    return [name[len(path.rstrip("/")) + 1 :] for name in found_in(filesystem, path)]


@patient
def read_bytes(uri: str) -> bytes:
    filesystem, path = locate(uri)
    return filesystem.cat_file(path)


@patient
def write_bytes(uri: str, data: bytes) -> None:
    """Write all or nothing, by a rename on a local disk or one put in an object store. Writing twice is harmless."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        with written(path, [data]) as part:
            os.replace(part, path)
    else:
        filesystem.pipe_file(path, data)


def write_parts(uri: str, parts: Callable[[], Iterable[bytes]]) -> None:
    """The same as `write_bytes`, for a file that is too large for memory. A local file's parts are made again if the
    disk does not answer. On its way to an object store the file is kept on the local disk, and sent again."""
    filesystem, path = locate(uri)

    def write() -> None:
        with written(path, parts()) as part:
            os.replace(part, path)

    if isinstance(filesystem, LocalFileSystem):
        patiently(write, uri)
    else:
        with scratch_directory("seva-upload-") as scratch, written(f"{scratch}/file", parts()) as part:
            patiently(lambda: filesystem.put_file(part, path), uri)


EXCLUSIVE = {"s3", "gs", "abfs", "memory"}
"""Stores that can write a file on the condition that no file of that name exists."""

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""What `os.link` says on a disk that knows no links."""

SETTLING_S = 1.0
"""Seconds after which all processes that wrote the same file at the same moment read what the last of them wrote."""


def write_new(uri: str, data: bytes) -> bool:
    """Write a file as `write_bytes` does, but never replace another file. Return whether this process wrote it: if
    several write the same name at the same moment, it is True for one of them.

    This is exact on disks with hard links, including NFS, and in S3, Google Cloud Storage and Azure. Elsewhere the last
    process that writes within `SETTLING_S` wins. If the reply to a write was lost, the next try finds its own file.
    """
    tries = itertools.count()

    def write() -> bool:
        is_again = next(tries) > 0
        if written_new(uri, data):
            return True
        with contextlib.suppress(FileNotFoundError):
            return is_again and read_bytes(uri) == data
        return False

    return patiently(write, uri)


def written_new(uri: str, data: bytes) -> bool:
    """One try of `write_new`."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        with written(path, [data]) as part:
            try:
                os.link(part, path)
                return True
            except FileExistsError:
                return os.stat(part).st_nlink == 2  # on NFS the first reply may be lost, and the client asks again
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
    protocols = [filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol
    if EXCLUSIVE & set(protocols):
        try:
            filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
    elif filesystem.exists(path):
        return False
    else:
        write_bytes(uri, data)
        time.sleep(SETTLING_S)
    return filesystem.cat_file(path) == data


@contextmanager
def written(path: str, parts: Iterable[bytes]) -> Iterator[str]:
    """Write a file's parts to a temporary file beside `path`, and remove that file afterwards if it still exists."""
    make_directory(os.path.dirname(path))
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        yield part
    except OSError as error:
        error.filename = path  # a full disk's error does not say where
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: os.remove(part), path)


@patient
def remove(uri: str) -> None:
    """Remove a file if it exists."""
    filesystem, path = locate(uri)
    with contextlib.suppress(FileNotFoundError):  # another process may remove it in the same moment
        filesystem.rm_file(path)


@patient
def remove_files(uri: str, last: str) -> None:
    """Remove all files of a directory, the file named `last` after the others. Directories in it that have a file of
    that name themselves stay."""
    filesystem, path = locate(uri)
    names = [name[len(path.rstrip("/")) + 1 :] for name in found_in(filesystem, path)]
    others = tuple(name.removesuffix(last) for name in names if name.endswith(f"/{last}"))
    for name in sorted((name for name in names if not name.startswith(others or "/")), key=lambda name: name == last):
        remove(f"{uri.rstrip('/')}/{name}")
    if isinstance(filesystem, LocalFileSystem):
        for directory, _, _ in os.walk(path, topdown=False, onerror=unless_gone):
            try:
                os.rmdir(directory)
            except OSError as error:
                if is_outage(error):
                    raise  # otherwise it is not empty, and stays


@contextmanager
def whole(uri: str) -> Iterator[None]:
    """Raises: InputError with the file's name if it is not there or not a whole parquet file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file; the command that made it makes it again") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a text that is not UTF-8, or not JSON
        if is_outage(error) or (isinstance(error, OSError) and error.errno is not None):  # not the file's fault
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{uri}: cannot be read ({reason}); remove it, and the same command makes it again") from None


@patient
def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file, or some of its columns. Raises: InputError if it is not there or not whole."""
    filesystem, path = locate(uri)
    with whole(uri), filesystem.open(path, "rb") as file:
        return checked(pq.read_table(file, columns=list(columns) if columns else None))


@patient
def read_schema(uri: str) -> pa.Schema:
    """Names, types and metadata of a parquet file. Raises: InputError if it is not there or not whole."""
    filesystem, path = locate(uri)
    with whole(uri), filesystem.open(path, "rb") as file:
        return pq.read_schema(file)


@patient
def read_columns(uri: str, columns: Sequence[str]) -> tuple[pa.Table, list[int]]:
    """Some columns of a table, and the number of rows in each part (row group) of its file. No other column is read."""
    filesystem, path = locate(uri)
    with whole(uri), filesystem.open(path, "rb", cache_type="none") as file:  # S3's client would read 50 MiB ahead
        parquet = pq.ParquetFile(file, pre_buffer=True)
        sizes = [parquet.metadata.row_group(part).num_rows for part in range(parquet.num_row_groups)]
        return checked(parquet.read(columns=list(columns))), sizes


@patient
def read_part(uri: str, part: int) -> pa.Table:
    """Read one part (row group) of a table's file, and little else of the file."""
    filesystem, path = locate(uri)
    with whole(uri), filesystem.open(path, "rb", cache_type="none") as file:
        return checked(pq.ParquetFile(file, pre_buffer=True).read_row_group(part))


def checked(table: pa.Table) -> pa.Table:
    """The same table. Raises: ArrowInvalid if a text in it is not UTF-8, as after damage that nothing else shows."""
    table.validate(full=True)
    return table


def write_table(uri: str, table: pa.Table, part_bytes: int | None = None) -> None:
    """Write a table. Each part (row group) of its file gets about `part_bytes` bytes, and at least one row. With None
    there is only one part (up to Arrow's own limit)."""
    sink = pa.BufferOutputStream()
    rows = max(1, len(table) * part_bytes // max(1, table.nbytes)) if part_bytes else None
    pq.write_table(table, sink, compression="zstd", row_group_size=rows)
    write_bytes(uri, sink.getvalue().to_pybytes())
