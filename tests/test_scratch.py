"""Directories for files that are soon removed: where they lie, and what becomes of them when a process is killed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from seva_ray.core.errors import InputError
from seva_ray.core.scratch import YOUNG_S, scratch_directory
from tests.environment import pythonpath

HOLDS = """
import sys
from seva_ray.core.scratch import scratch_directory
with scratch_directory("seva-x-") as directory:
    print(directory, flush=True)
    sys.stdin.read()
"""


def test_they_lie_where_the_node_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEVA_SCRATCH", str(tmp_path / "nvme" / "spill"))
    with scratch_directory("seva-x-") as directory:
        assert Path(directory).parent == tmp_path / "nvme" / "spill"
        assert Path(directory).name.startswith("seva-x-")
    assert not Path(directory).exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEVA_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"^SEVA_SCRATCH .*/file: File exists$"), scratch_directory("seva-x-"):
        pass
    monkeypatch.delenv("SEVA_SCRATCH")
    with scratch_directory("seva-x-") as directory:
        assert Path(directory).parent == Path(tempfile.gettempdir())


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SEVA_SCRATCH", str(tmp_path))
    environment = os.environ | {"PYTHONPATH": pythonpath()}
    command = [sys.executable, "-c", HOLDS]
    processes = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, living = (Path(process.stdout.readline().strip()) for process in processes if process.stdout)
    (killed / "checkpoint").write_bytes(b"large")
    for name in ("seva-x-young", "seva-home-0", "other"):
        (tmp_path / name).mkdir()
    processes[0].kill()
    processes[0].communicate()
    long_ago = time.time() - 2 * YOUNG_S
    for directory in tmp_path.iterdir():
        if directory.name != "seva-x-young":
            os.utime(directory, (long_ago, long_ago))
    with scratch_directory("seva-x-") as own:
        there = {path.name for path in tmp_path.iterdir()}
        assert there == {living.name, Path(own).name, "seva-x-young", "seva-home-0", "other"}
    processes[1].communicate("")
    assert not living.exists()
