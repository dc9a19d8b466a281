"""A job that trains while its engines wait is ended by a signal: nothing of it is left 10 s later."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from seva_ray.runtime.reaper import MARK, marked
from tests.chaos.machines import ENGINE_ACTOR, PATIENCE_S, TRAINING_WORKER
from tests.environment import ROOT, pythonpath

ENDS_WITHIN_S = 10.0


def command(root: Path, model: str, engine: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "jobs" / "full.py"), "--model", model, "--root", str(root), "--name", "kept",
        "--views", "diffusion-900", "--generate.engine", engine, "--generate.decoding.max-new-tokens", "8",
        "--prepare.shard-size", "16", "--train.num-workers", "1", "--train.global-batch-size", "2",
        "--train.per-device-batch-size", "1", "--train.num-repeats", "50", "--train.save-steps", "2",
        "--benchmarks.toy-images", "4",
        "source:toy-world", "--source.num-images", "12",
    ]  # fmt: skip


@pytest.fixture
def training(request: pytest.FixtureRequest, toy_model: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A job whose training works, and whose engines wait."""
    job = subprocess.Popen(
        command(tmp_path / "runs", toy_model, request.param),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        | {"PYTHONPATH": pythonpath(), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    ends = time.monotonic() + PATIENCE_S
    while not list((tmp_path / "runs").rglob("checkpoint_*")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < ends, "it hangs"
        time.sleep(0.2)
    yield job
    job.kill()
    job.wait()


def titles(processes: list[psutil.Process]) -> str:
    return "\n".join(" ".join(process.cmdline()[:1]) for process in processes if process.is_running())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "number", "status"),
    [
        pytest.param("transformers-engine", signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param("transformers-engine", signal.SIGHUP, 129, id="SIGHUP"),
        pytest.param("transformers-engine", signal.SIGINT, 130, id="SIGINT"),
        pytest.param("vllm-engine", signal.SIGKILL, -9, id="SIGKILL and vLLM"),
    ],
    indirect=["training"],
)
def test_nothing_is_left_10_s_after_a_signal_to_a_job_that_trains_while_its_engines_wait(
    training: subprocess.Popen[str], number: signal.Signals, status: int
):
    parts = psutil.Process(training.pid).children(recursive=True)
    there = titles(parts)
    assert TRAINING_WORKER in there, there
    assert ENGINE_ACTOR in there, "the engines wait meanwhile"
    (mark,) = {part.environ()[MARK] for part in parts if MARK in part.environ()}
    training.send_signal(number)
    began = time.monotonic()
    assert training.stderr
    assert training.wait(60) == status
    ended_after = time.monotonic() - began
    while (left := marked(mark)) and time.monotonic() < began + ENDS_WITHIN_S:
        time.sleep(0.1)
    assert not left, titles([psutil.Process(process) for process in left])
    assert ended_after < ENDS_WITHIN_S
    said = training.stderr.read()
    assert number == signal.SIGKILL or said.endswith("run the same command again to continue\n"), said
    assert "Traceback" not in said
