"""What Ray Train and Ray Tune read and write in an object store outlasts a store that does not answer."""

import errno
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest

from seva_ray.core import patience
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.patient_filesystem import storage_for_ray
from seva_ray.core.storage import files_in
from seva_ray.runtime.cli import users_line
from seva_ray.stages.training.failures import stop_if_unavailable
from seva_ray.stages.training.saving import uploaded
from tests.s3_server import Faults, impatient_bucket

LARGE = bytes(range(256)) * 2**13
"""2 MiB: more than is read in one request."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Faults]]:
    with pytest.MonkeyPatch.context() as patch, impatient_bucket("ray-storage") as found:
        patch.setattr(patience, "PAUSES_S", (0.01,))
        patch.setenv(patience.WAIT_VARIABLE, "100")
        yield found


@pytest.fixture
def s3(bucket: tuple[str, Faults], tmp_path: Path) -> Iterator[tuple[str, Faults]]:
    uri, faults = bucket
    yield f"{uri}/{tmp_path.name}", faults
    faults.reset()


class FirstTries:
    """Answers the first try of each request with 500 and an unknown code, and the next ones as usual."""

    def __init__(self, faults: Faults, monkeypatch: pytest.MonkeyPatch):
        self.refused: set[tuple[str, str, str]] = set()
        real = faults.app

        def app(environ: Any, start_response: Any) -> Any:
            request = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
            if request in self.refused:
                return real(environ, start_response)
            self.refused.add(request)
            start_response("500 Odd", [("Content-Type", "application/xml")])
            return [] if request[0] == "HEAD" else [b"<Error><Code>Odd</Code><Message>Odd</Message></Error>"]

        monkeypatch.setattr(faults, "app", app)

    def methods(self) -> set[str]:
        return {method for method, *_ in self.refused}


def checkpoint(directory: Path) -> Path:
    (directory / "inner").mkdir(parents=True)
    (directory / "weights").write_bytes(LARGE)
    (directory / "inner" / "state").write_bytes(b"1")
    (directory / "empty").touch()
    return directory


def test_a_checkpoint_goes_to_a_store_and_back_though_every_request_fails_at_first(
    s3: tuple[str, Faults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from ray.train import Checkpoint, RunConfig

    uri, faults = s3
    failing = FirstTries(faults, monkeypatch)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    storage = RunConfig(name="run", **storage_for_ray(uri)).storage_context
    made = storage.persist_current_checkpoint(Checkpoint(checkpoint(tmp_path / "here")), "checkpoint_0")
    assert made.filesystem == storage.storage_filesystem
    found = Path(made.to_directory(str(tmp_path / "there")))
    assert (found / "weights").read_bytes() == LARGE
    assert (found / "inner" / "state").read_bytes() == b"1"
    assert (found / "empty").read_bytes() == b""
    assert {"HEAD", "PUT", "GET"} <= failing.methods()
    assert f"{uri}/run/checkpoint_0/weights: the storage does not answer" in caplog.text

    storage.storage_filesystem.delete_dir(made.path)
    storage.storage_filesystem.delete_file(storage.experiment_fs_path + "/.validate_storage_marker")
    assert {"POST", "DELETE"} & failing.methods()
    assert not files_in(uri)
    storage.storage_filesystem.delete_dir(made.path)  # the answer to the first try may have been lost


def test_a_small_state_is_replaced_as_a_whole_and_read_again_by_another_process(
    s3: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch
):
    uri, faults = s3
    FirstTries(faults, monkeypatch)
    storage = storage_for_ray(uri)
    filesystem, path = storage["storage_filesystem"], f"{storage['storage_path']}/state.json"
    assert filesystem.get_file_info(path).type == pyarrow.fs.FileType.NotFound
    for step in (10, 9):
        with filesystem.open_output_stream(path) as file:
            file.write(json.dumps({"step": step}).encode())
        with pickle.loads(pickle.dumps(filesystem)).open_input_stream(path) as file:
            assert json.loads(file.read()) == {"step": step}
    with filesystem.open_input_file(path) as file:
        file.seek(2)
        assert file.read(4) == b"step"
    selector = pyarrow.fs.FileSelector(storage["storage_path"])
    assert [info.path for info in filesystem.get_file_info(selector)] == [path]


def test_a_store_that_stays_away_while_a_checkpoint_is_uploaded_is_one_line_with_the_uri(
    s3: tuple[str, Faults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import ray.train

    uri, faults = s3
    filesystem, path = (storage_for_ray(uri)[name] for name in ("storage_filesystem", "storage_path"))

    class Storage:
        storage_filesystem = filesystem

        def persist_current_checkpoint(self, checkpoint: Any, name: str) -> Any:
            faults.status = 500
            pyarrow.fs.copy_files(checkpoint.path, f"{path}/{name}", destination_filesystem=filesystem)
            faults.status = None
            return ray.train.Checkpoint(f"{path}/{name}", filesystem)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights").write_bytes(b"1")
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_storage=Storage))
    monkeypatch.setenv(patience.WAIT_VARIABLE, "0.1")
    with pytest.raises(StorageUnavailable) as caught:
        uploaded(ray.train.Checkpoint(str(tmp_path / "here")), "checkpoint_0")
    line = users_line(caught.value)
    assert line is not None
    assert line.startswith(f"{uri}/checkpoint_0/weights: the storage has not answered for 0.1 s (")
    assert line.endswith("run the same command again to continue, or wait longer with --storage.wait-s")
    assert not files_in(uri)
    stored = uploaded_again(filesystem, f"{path}/state")
    assert stored == b"1"


def uploaded_again(filesystem: Any, path: str) -> bytes:
    """What is read after a new write: an error is raised once."""
    with filesystem.open_output_stream(path) as file:
        file.write(b"1")
    with filesystem.open_input_stream(path) as file:
        return file.read()


def test_each_question_to_a_store_that_stays_away_is_one_line(s3: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch):
    uri, faults = s3
    storage = storage_for_ray(uri)
    filesystem, path = storage["storage_filesystem"], f"{storage['storage_path']}/state"
    monkeypatch.setenv(patience.WAIT_VARIABLE, "0.1")
    faults.status = 500
    for ask in (filesystem.get_file_info, filesystem.delete_file, filesystem.open_input_stream):
        with pytest.raises(StorageUnavailable, match=f"^{uri}/state: the storage has not answered"):
            ask(path)
    with (
        pytest.raises(StorageUnavailable, match=f"^{uri}/state: the storage has not answered"),
        filesystem.open_output_stream(path) as file,
    ):
        file.write(b"1")


def test_a_local_disk_is_left_to_ray(tmp_path: Path):
    assert storage_for_ray(str(tmp_path)) == {"storage_path": str(tmp_path), "storage_filesystem": None}


def test_a_training_that_a_mount_has_ended_says_so_in_one_line_and_another_error_stays():
    from ray.train import ControllerError

    with pytest.raises(StorageUnavailable) as caught:
        stop_if_unavailable(ControllerError(OSError(errno.ESTALE, "Stale file handle")), "/mnt/runs/p")
    assert users_line(caught.value) == (
        "/mnt/runs/p: the storage does not answer (Stale file handle); run the same command again to continue from the "
        "last checkpoint"
    )
    for error in (OSError(errno.ENOSPC, "No space"), ConnectionResetError("x"), ValueError("x")):
        stop_if_unavailable(ControllerError(error), "/mnt/runs/p")
