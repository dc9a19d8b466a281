"""An error of a mount is waited for, whichever system call meets it. It is never taken for an absence."""

import builtins
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from seva_ray.core import patience
from seva_ray.core.artifacts import Store
from seva_ray.core.contents import contents
from seva_ray.core.digests import digest
from seva_ray.core.directories import fetch_directory, write_directory
from seva_ray.core.ownership import owned
from seva_ray.core.storage import (
    exists,
    files_in,
    is_directory,
    names_in,
    read_bytes,
    read_columns,
    read_part,
    read_schema,
    read_table,
    remove,
    remove_files,
    write_bytes,
    write_new,
    write_parts,
    write_table,
)
from seva_ray.core.verification import damage, described, whole_shards
from seva_ray.sources import Folder
from seva_ray.vlm.images import load_image

CALLS = (
    "replace", "rename", "fsync", "link", "remove", "unlink", "rmdir", "makedirs", "mkdir", "scandir", "listdir",
    "walk", "stat", "lstat", "chmod",
)  # fmt: skip
"""Functions of `os`, one of whose calls fails. `open` is another one."""

TABLE = pa.table({"prompt_id": ["a", "b"]})
SHARD = "shard-000000.parquet"


def own(place: str) -> None:
    with owned(place, ["prompts/x"]):
        pass


WORK: dict[str, Callable[[str], Any]] = {
    "write_bytes": lambda place: write_bytes(f"{place}/x/y", b"1"),
    "write_new": lambda place: write_new(f"{place}/x/y", b"1"),
    "write_parts": lambda place: write_parts(f"{place}/x/y", lambda: [b"1", b"2"]),
    "write_table": lambda place: write_table(f"{place}/x/y", TABLE),
    "write_directory": lambda place: write_directory(f"{place}/x/y", f"{place}/model"),
    "fetch_directory": lambda place: fetch_directory(f"{place}/in", f"{place}/copy"),
    "read_bytes": lambda place: read_bytes(f"{place}/in/a.txt"),
    "read_table": lambda place: read_table(f"{place}/in/{SHARD}"),
    "read_columns": lambda place: read_columns(f"{place}/in/{SHARD}", ["prompt_id"]),
    "read_part": lambda place: read_part(f"{place}/in/{SHARD}", 0),
    "read_schema": lambda place: read_schema(f"{place}/in/{SHARD}"),
    "exists": lambda place: exists(f"{place}/in/a.txt"),
    "is_directory": lambda place: is_directory(f"{place}/in"),
    "names_in": lambda place: names_in(f"{place}/in"),
    "files_in": lambda place: files_in(place),
    "remove": lambda place: remove(f"{place}/in/a.txt"),
    "remove_files": lambda place: remove_files(f"{place}/in", last="a.txt"),
    "contents": lambda place: contents(place),
    "digest": lambda place: digest(f"{place}/in/a.txt"),
    "described": lambda place: described(f"{place}/in"),
    "damage": lambda place: damage(f"{place}/in", {"a.txt": {"bytes": 1}, "gone": {"bytes": 1}}),
    "whole_shards": lambda place: whole_shards(f"{place}/in", f"{place}/in"),
    "finish": lambda place: Store(place).open("prompts/p", config={"a": 1}).begin().finish({"n": 1}).counts,
    "check_writable": lambda place: Store(place).check_writable(),
    "owned": own,
    "load_image": lambda place: load_image(path="i.png", data=None, image_root=f"{place}/in").size,
    "a source": lambda place: [prompt.error for prompt in Folder(path=f"{place}/in").prompts()],
}


class FailingCall:
    """Lets the call number `left` of a system function about files of a directory fail once."""

    def __init__(self, place: str, left: int, code: int):
        self.place, self.left, self.code, self.failed = place, left, code, False

    def around(self, real: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if not self.failed and (always or any(self.place in str(each) for each in given)):
                self.left -= 1
                if self.left < 0:
                    self.failed = True
                    raise OSError(self.code, os.strerror(self.code))
            return real(*given, **options)

        return call


def made(place: Path) -> str:
    """The directory as it is before each work."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "in").mkdir(parents=True)
    (place / "model").mkdir()
    (place / "model" / "weights").write_bytes(b"1")
    (place / "in" / "a.txt").write_bytes(b"1")
    write_table(str(place / "in" / SHARD), TABLE)
    Image.new("RGB", (2, 2)).save(place / "in" / "i.png")
    return str(place)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE], ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("name", WORK)
def test_whichever_call_fails_the_work_is_done_and_gives_what_it_gives_otherwise(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    monkeypatch.setenv(patience.WAIT_VARIABLE, "5")
    expected = repr(WORK[name](made(tmp_path / "place")))
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*"))
    for number in range(100):
        place = made(tmp_path / "place")
        call = FailingCall(place, number, code)
        with monkeypatch.context() as patch:
            for each in CALLS:
                patch.setattr(os, each, call.around(getattr(os, each), always=each == "fsync"))
            patch.setattr(builtins, "open", call.around(open))
            found = repr(WORK[name](place))
        if not call.failed:
            break
        assert found == expected, number
        assert sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*")) == files, number
    assert number > 0, "the work calls the system"
