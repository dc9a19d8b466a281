"""The filesystem that Ray Train and Ray Tune get for a root in an object store. It uses the same client as `storage`,
and it waits as long for a store that does not answer.

By themselves these libraries use Arrow's clients, which raise the first error that they do not know. A checkpoint, or a
few bytes of Ray's own state, would then end a training.
"""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.patience import patiently
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import EXCLUSIVE, locate

Result = TypeVar("Result")

READ_BYTES = 2**20
"""Smallest number of bytes that are read in one request, if the file has so many."""


def storage_for_ray(uri: str) -> dict[str, Any]:
    """The arguments `storage_path` and `storage_filesystem` by which Ray keeps its files under `uri`. Local disks are
    left to Ray: there it reads a checkpoint in place."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, LocalFileSystem):
        return {"storage_path": uri, "storage_filesystem": None}
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(PatientHandler(filesystem))}


class PatientHandler(pyarrow.fs.FSSpecHandler):
    """Arrow's handler for a client of fsspec, each of whose operations may be done twice and is tried again."""

    def __init__(self, fs: Any):
        super().__init__(fs)
        self.unsent: list[Exception] = []
        """Why files could not be sent. `pyarrow.fs.copy_files` closes its files and ignores what that raises. So the
        next operation raises it."""

    def patiently(self, work: Callable[[], Result], path: str) -> Result:
        if self.unsent:
            raise self.unsent.pop()
        return patiently(work, self.fs.unstrip_protocol(path))

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        found = super().get_file_info
        return [info for path in paths for info in self.patiently(partial(found, [path]), path)]

    def get_file_info_selector(self, selector: Any) -> list[pyarrow.fs.FileInfo]:
        found = super().get_file_info_selector
        return self.patiently(lambda: found(selector), selector.base_dir)

    def create_dir(self, path: str, recursive: bool) -> None:
        protocols = [self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol
        if not EXCLUSIVE & set(protocols):  # a store of objects has no directories
            self.patiently(lambda: self.fs.makedirs(path, exist_ok=True), path)

    def delete_dir(self, path: str) -> None:
        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(path, recursive=True)

        self.patiently(delete, path)

    def delete_file(self, path: str) -> None:
        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

        self.patiently(delete, path)

    def open_input_file(self, path: str) -> Any:
        info = self.patiently(lambda: self.fs.info(path), path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return pyarrow.PythonFile(io.BufferedReader(Incoming(self, path, info["size"]), READ_BYTES), mode="r")

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pyarrow.PythonFile(Outgoing(self, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("a store of objects cannot append to a file")

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError("to move a file cannot be tried again")


class Incoming(io.RawIOBase):
    """A file that is read in pieces. Each piece is a request of its own, so that it can be asked for again."""

    def __init__(self, handler: PatientHandler, path: str, size: int):
        self.handler, self.path, self.size, self.place = handler, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence] + offset
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        end = min(self.place + len(buffer), self.size)
        if self.place >= end:
            return 0
        piece = self.handler.patiently(
            lambda: self.handler.fs.cat_file(self.path, start=self.place, end=end), self.path
        )
        buffer[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)


class Outgoing:
    """A file that is written to the local disk, and sent when it is closed, so that it can be sent again."""

    def __init__(self, handler: PatientHandler, path: str):
        self.handler, self.path, self.closed = handler, path, False
        self.cleanup = contextlib.ExitStack()
        self.name = f"{self.cleanup.enter_context(scratch_directory('seva-upload-'))}/file"
        self.file = self.cleanup.enter_context(open(self.name, "wb"))  # noqa: SIM115

    def write(self, data: Any) -> int:
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with self.cleanup:
            self.file.close()
            try:
                self.handler.patiently(lambda: self.handler.fs.put_file(self.name, self.path), self.path)
            except Exception as error:
                self.handler.unsent.append(error)
                raise
