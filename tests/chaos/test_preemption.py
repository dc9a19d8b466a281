"""A machine under training that is to be taken away: on notice there is a checkpoint, and nothing after it is lost."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from presets import TOY_TRAIN
from seva_ray.core.storage import read_bytes
from seva_ray.stages.training.train import train
from tests.chaos.machines import TRAINING_WORKER, Machines, processes_on, wait_for
from tests.chaos.runs import Run
from tests.small_run import SmallRun

SETTINGS = {
    "num_repeats": 8,
    "global_batch_size": 2,
    "per_device_batch_size": 1,
    "save_steps": 10_000,  # so that there is no checkpoint but the one on notice
    "max_failures": 0,  # being taken away is no failure
}
SCRIPT = str(Path(__file__).parents[2] / "jobs" / "train.py")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_on_notice_training_saves_and_goes_on_elsewhere_to_the_same_end(
    when: str, run: SmallRun, machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The machine goes before its time, or when all have left it in time."""
    config = replace(TOY_TRAIN, **SETTINGS)  # type: ignore[arg-type]
    uninterrupted = train(config, run.store, "uninterrupted", run.model, run.pairs)
    words = ["--root", run.store.root, "--name", when, "--model", run.model.directory]
    words += ["--pairs", run.pairs.name.removeprefix("pairs/")]
    words += [word for name, value in SETTINGS.items() for word in (f"--train.{name.replace('_', '-')}", str(value))]
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    job = Run(machines=machines, words=words, log=tmp_path / "log", script=SCRIPT)
    job.start()
    wait_for(lambda: job.check_running() and "train: step 10/" in job.log.read_text())
    (node,) = (node for node in machines.workers if processes_on(node, TRAINING_WORKER))
    saved = Path(run.store.uri(f"policies/{when}/run/checkpoint_manager_snapshot.json"))
    assert not saved.exists()
    machines.give_notice(node, seconds=300 if when == "before" else 10)
    wait_for(lambda: job.check_running() and saved.exists())
    if when == "after":
        wait_for(lambda: job.check_running() and "train: resumed" in job.log.read_text())
        assert not processes_on(node, TRAINING_WORKER)
    machines.exchange(node)
    job.finish()

    num_steps = uninterrupted.counts["num_steps"]
    (step,) = re.findall(rf"train: resumed at step (\d+)/{num_steps}", job.log.read_text())
    assert 10 <= int(step) < num_steps
    expected, found = (
        [row for row in json.loads(read_bytes(policy.path("log.json"))) if "loss" in row]
        for policy in (uninterrupted, run.store.find(f"policies/{when}"))
    )
    assert [row["step"] for row in found] == list(range(1, num_steps + 1)) == [row["step"] for row in expected]
    for name in ("loss", "rewards/margins", "grad_norm", "learning_rate"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-4, abs=1e-6)
