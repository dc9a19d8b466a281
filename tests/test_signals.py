"""A signal ends a job with one line, wherever the job is, and with the exit status that shells and schedulers know."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.environment import pythonpath

JOB = """
import sys, time
from dataclasses import dataclass
import ray.train
from seva_ray.runtime.cluster import cluster, join
from seva_ray.runtime.cli import run
from seva_ray.private.ray import trainer

@dataclass(frozen=True, kw_only=True)
class Job:
    train_s: float = 0.0
    storage: str = ""

def main(config):
    with cluster():
        join()
        here = ray.train.RunConfig(storage_path=config.storage)
        print("trains", flush=True)
        trainer(lambda: time.sleep(config.train_s), run_config=here).fit()
        print("trained", flush=True)
        time.sleep(120)

run(main, {"job": Job()}, "Trains, and then goes on with something else.")
"""


ONCE = pytest.mark.slow  # one signal at each place, and one place for each signal, by default


@pytest.mark.parametrize(
    ("number", "train_s", "line", "status"),
    [
        pytest.param(signal.SIGINT, 120, "interrupted", 130, id="SIGINT in training", marks=ONCE),
        pytest.param(signal.SIGINT, 0, "interrupted", 130, id="SIGINT after it"),
        pytest.param(signal.SIGTERM, 120, "stopped by SIGTERM", 143, id="SIGTERM in training"),
        pytest.param(signal.SIGTERM, 0, "stopped by SIGTERM", 143, id="SIGTERM after it", marks=ONCE),
        pytest.param(signal.SIGHUP, 0, "stopped by SIGHUP", 129, id="SIGHUP after it", marks=ONCE),
    ],
)
def test_a_signal_ends_a_job_with_one_line_in_training_and_after_it(tmp_path, number, train_s, line, status):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    job = subprocess.Popen(
        [sys.executable, str(script), "--train-s", str(train_s), "--storage", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": pythonpath()},
        # A shell that runs the tests in its background has interrupts ignored, by all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout
    for said in job.stdout:
        if said.strip() == ("trains" if train_s else "trained"):
            break
    time.sleep(5 if train_s else 1)  # in training: until Ray Train waits for its workers
    job.send_signal(number)
    _, errors = job.communicate(timeout=60)
    lines = [text for text in errors.splitlines() if not text.endswith(" so far")]  # what it waits for
    assert (job.returncode, lines) == (status, [f"{line}: run the same command again to continue"])
