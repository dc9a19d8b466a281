"""A study on machines that vanish, with its root in an object store: what was finished stays, whatever dies, and every
point has its interval at the end."""

import csv
from pathlib import Path
from random import Random

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_bytes
from tests.chaos.machines import TRAINING_WORKER, Machines, processes_on, wait_for
from tests.chaos.runs import Run
from tests.test_sweep import JOBS, command


@pytest.mark.slow
def test_a_study_goes_on_when_its_driver_is_killed_and_when_the_machine_under_training_vanishes(
    machines: Machines, s3: str, toy_model: str, tmp_path: Path
) -> None:
    store = Store(f"{s3}/study")
    words = command(store.root, toy_model, "study", "--space.betas", "0.1", "0.3", "--no-test-time")
    job = Run(machines=machines, words=words[2:], log=tmp_path / "log", script=str(JOBS / "sweep.py"))

    def policies() -> dict[str, float]:
        """Finished ones, and when."""
        return {name: store.find(name).finished for name in store.names("policies")}

    def under_training() -> list:
        job.check_running()
        return [node for node in machines.workers if processes_on(node, TRAINING_WORKER)]

    job.start()
    wait_for(under_training)
    job.kill()
    wait_for(lambda: not machines.processes(TRAINING_WORKER))
    before = policies()
    assert not store.names("studies")

    job.start()
    machines.exchange(Random(0).choice(wait_for(under_training)))
    assert job.process.wait(900) == 0, job.log.read_text()
    assert before.items() <= policies().items()
    assert store.find("studies/study").counts["num_failed"] == 0
    table = read_bytes(store.uri("studies/study/table.csv")).decode().splitlines()
    sought = [row for row in csv.DictReader(table) if row["metric"] == "VQA accuracy"]
    assert {row["beta"] for row in sought} == {"0.1", "0.3"}
    assert all(float(row["difference_low"]) <= float(row["difference_high"]) for row in sought)
