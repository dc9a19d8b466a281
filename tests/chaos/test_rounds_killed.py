"""A run of two rounds whose driver is killed while the second round trains ends as one left in peace, byte for byte.

`test_rounds.py` has the cheap form: it asks what is begun again, and trains nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.machines import PATIENCE_S, wait_for
from tests.environment import pythonpath

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KINDS = ("responses/*/*/*/*.parquet", "pairs/*/*/*/pairs/*.parquet", "logps/*/*/*/*/*.parquet",
         "policies/*/model/*.safetensors")  # fmt: skip
"""What a run makes, without the times at which it was made."""


def started(root: Path, model: str) -> subprocess.Popen:
    words = [
        sys.executable, str(ROOT / "jobs" / "full.py"), "toy", "--root", str(root), "--model", model, "--rounds", "2",
        "--views", "moco", "--controls", "--generate.engine", "transformers-engine", "--benchmarks.toy-images", "3",
        "--benchmarks.toy-cameras", "clean", "--train.global-batch-size", "4", "--train.per-device-batch-size", "2",
        "source:toy-world", "--source.num-images", "6",
    ]  # fmt: skip
    with root.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": pythonpath()}, stdout=log, stderr=log)


def finish(root: Path, model: str) -> None:
    process = started(root, model)
    try:
        assert process.wait(PATIENCE_S) == 0, root.with_suffix(".log").read_text()
    finally:
        process.kill()


def kill_in_the_second_round(root: Path, model: str) -> None:
    process = started(root, model)

    def trains() -> bool:
        assert process.poll() is None, root.with_suffix(".log").read_text()
        return (root / "policies" / "toy-round2" / "run").exists()

    try:
        wait_for(trains)
    finally:
        process.kill()
        process.wait()
    assert not (root / "policies" / "toy-round2" / "record.json").exists(), "it was killed before the end"
    assert (root / "policies" / "toy" / "record.json").exists()


def made(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for kind in KINDS for path in sorted(root.glob(kind))}


def written(root: Path) -> dict[str, int]:
    """When each file of the first round was written."""
    return {str(path): path.stat().st_mtime_ns for path in (root / "policies" / "toy").rglob("*") if path.is_file()}


def test_a_run_that_is_killed_while_its_second_round_trains_ends_as_one_left_in_peace(trained_toy: str, tmp_path: Path):
    peaceful, killed = tmp_path / "peaceful", tmp_path / "killed"
    finish(peaceful, trained_toy)
    kill_in_the_second_round(killed, trained_toy)
    before = written(killed)
    finish(killed, trained_toy)
    assert written(killed) == before, "nothing of the first round is made again"
    found, expected = made(killed), made(peaceful)
    assert {*found} == {*expected}
    assert {name.split("/")[0] for name in expected} == {"responses", "pairs", "logps", "policies"}
    assert [name for name in expected if found[name] != expected[name]] == []
    assert expected["policies/toy/model/model.safetensors"] != expected["policies/toy-round2/model/model.safetensors"]
