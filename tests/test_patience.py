"""Storage that does not answer is waited for, up to a limit; faults of the code and of the user are errors at once."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from seva_ray.core import patience
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.node_cache import local_directory
from seva_ray.core.patience import Storage, StorageUnavailable, is_outage, patiently
from seva_ray.core.storage import (
    exists,
    names_in,
    read_bytes,
    read_columns,
    read_table,
    write_bytes,
    write_new,
    write_table,
)
from seva_ray.runtime.cli import users_line
from seva_ray.sources import ToyWorld
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm import images
from seva_ray.vlm.images import load_image
from tests.s3_server import Faults, impatient_bucket


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.01,))
    monkeypatch.setenv(patience.WAIT_VARIABLE, "100")


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Faults]]:
    with impatient_bucket("patience") as found:
        yield found


@pytest.fixture
def s3(bucket: tuple[str, Faults], tmp_path: Path) -> Iterator[tuple[str, Faults]]:
    uri, faults = bucket
    yield f"{uri}/{tmp_path.name}", faults
    faults.reset()


def test_a_whole_stage_outlasts_an_outage_that_begins_before_it_and_one_in_its_middle(
    s3: tuple[str, Faults], caplog: pytest.LogCaptureFixture
):
    uri, faults = s3
    store = Store(uri)
    for left in (3, 5):
        faults.left, faults.refused = left, 0
        store.check_writable()
        faults.left += left
        made = prepare(Prepare(shard_size=4), store, f"p{left}", ToyWorld(num_images=2))
        assert faults.refused == 2 * left
        assert made.complete
    assert read_table(made.path("shard-000000.parquet")).num_rows == 4
    assert "the storage does not answer (SlowDown): waiting up to 1.7 min" in caplog.text


@pytest.mark.parametrize("status", [500, 503, 403, 408, 429])
def test_an_outage_that_lasts_is_one_line_with_the_way_on(
    s3: tuple[str, Faults], status: int, monkeypatch: pytest.MonkeyPatch
):
    uri, faults = s3
    monkeypatch.setenv(patience.WAIT_VARIABLE, "0.1")
    faults.status = status
    with pytest.raises(StorageUnavailable) as caught:
        exists(f"{uri}/file")
    line = users_line(caught.value)
    assert line is not None
    assert line.startswith(f"{uri}/file: the storage has not answered for 0.1 s (")
    assert line.endswith("); run the same command again to continue, or wait longer with --storage.wait-s")
    assert faults.refused >= 1


@pytest.mark.parametrize("way", ["429 html", "500 html", "502 html", "cut", "reset"])
def test_whatever_a_store_says_instead_of_an_answer_is_waited_for(s3: tuple[str, Faults], way: str, tmp_path: Path):
    uri, faults = s3
    table = pa.table({"prompt_id": [str(number) for number in range(1000)]})
    write_table(f"{uri}/in/shard.parquet", table)
    write_bytes(f"{uri}/model/config.json", b"{}" * 1000)
    write_bytes(f"{uri}/alone/file", b"1")
    work: dict[Any, Callable[[], Any]] = {
        True: lambda: exists(f"{uri}/in/shard.parquet"),
        1000: lambda: read_table(f"{uri}/in/shard.parquet").num_rows,
        "prompt_id": lambda: read_columns(f"{uri}/in/shard.parquet", ["prompt_id"])[0].column_names[0],
        b"{}": lambda: read_bytes(f"{uri}/model/config.json")[:2],
        2000: lambda: Path(local_directory(f"{uri}/model", str(tmp_path)), "config.json").stat().st_size,
        ("file",): lambda: tuple(names_in(f"{uri}/alone")),
        "new": lambda: "new" if write_new(f"{uri}/new", b"1") else "another's",
        None: lambda: write_bytes(f"{uri}/again", b"1"),
    }
    for expected, ask in work.items():
        faults.way, faults.left = way, 2
        assert ask() == expected, expected
        faults.left = 0
    assert faults.refused >= len(work)


def test_a_refusal_at_the_start_is_an_error_at_once(s3: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch):
    uri, faults = s3
    faults.status = 403
    with pytest.raises(InputError, match=rf"^root {uri}: not writable \(AccessDenied\)$"):
        Store(uri).check_writable()
    assert faults.refused == 1


def test_an_error_of_the_request_is_not_tried_again_though_the_client_calls_it_an_input_output_error(
    s3: tuple[str, Faults],
):
    uri, faults = s3
    faults.status = 400
    with pytest.raises(OSError, match="Odd") as caught:
        write_bytes(f"{uri}/file", b"1")
    assert caught.value.errno == errno.EIO
    assert faults.refused == 1


def test_a_line_is_said_at_once_and_each_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda pause_s: now.__setitem__(0, now[0] + pause_s))
    monkeypatch.setattr(patience, "time", clock)  # the module's own: threads that other tests left sleep as before
    monkeypatch.setattr(patience, "PAUSES_S", (20.0,))
    monkeypatch.setenv(patience.WAIT_VARIABLE, "150")
    tries: list[float] = []

    def work() -> None:
        tries.append(now[0])
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(
        StorageUnavailable, match=r"^x: the storage has not answered for 2\.5 min \(Stale file handle\)"
    ):
        patiently(work, "x")
    assert tries == [0, 20, 40, 60, 80, 100, 120, 140, 150]
    assert [record.getMessage() for record in caplog.records] == [
        "x: the storage does not answer (Stale file handle): waiting up to 2.5 min"
    ] * 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "x"), True),
        (OSError(errno.ESTALE, "x"), True),
        (OSError(errno.EHOSTDOWN, "x"), True),
        (OSError(errno.ENOTCONN, "x"), True),
        (TimeoutError(), True),
        (ConnectionResetError(errno.ECONNRESET, "x"), True),
        (PermissionError("Forbidden"), True),
        (PermissionError(errno.EACCES, "x"), False),
        (FileNotFoundError(errno.ENOENT, "x"), False),
        (OSError(errno.ENOSPC, "x"), False),
        (OSError(errno.EINVAL, "x"), False),
        (OSError("Couldn't deserialize thrift"), False),
        (ValueError("x"), False),
        (AttributeError("x"), False),
        (InputError("x"), False),
        (StorageUnavailable("x"), False),
    ],
    ids=repr,
)
def test_only_errors_of_the_place_are_outages(error: Exception, expected: bool):
    assert is_outage(error) == expected


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_an_image_on_a_mount_that_does_not_answer_is_no_failed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    left = [2]

    def failing(real: Any) -> Any:
        def read(*args: Any) -> bytes:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(code, os.strerror(code))
            return real(*args)

        return read

    monkeypatch.setattr("seva_ray.vlm.images.read_image", failing(images.read_image))
    assert load_image(path="a.png", data=None, image_root=str(tmp_path)).size == (2, 2)
    left[0] = 10**6
    monkeypatch.setenv(patience.WAIT_VARIABLE, "0.05")
    with pytest.raises(StorageUnavailable, match=f"^{tmp_path}/a.png: the storage has not answered"):
        load_image(path="a.png", data=None, image_root=str(tmp_path))


def test_the_limit_reaches_workers_by_the_environment_and_must_be_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch):
    Storage(wait_s=7.5).take_effect()
    assert os.environ[patience.WAIT_VARIABLE] == "7.5"
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"wait_s .*: must be 0 or more, and finite"):
            Storage(wait_s=wrong)


def test_a_file_that_comes_back_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_bytes(f"{tmp_path}/file", b"1")
    from fsspec.implementations.local import LocalFileSystem

    real, left = LocalFileSystem.cat_file, [3]

    def cat_file(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "cat_file", cat_file)
    assert read_bytes(f"{tmp_path}/file") == b"1"
    assert left == [-1]
