"""A study on machines that vanish: what was finished stays, and every point has its interval at the end."""

from pathlib import Path
from random import Random

import pytest

from seva_ray.artifacts import Store
from tests.chaos.machines import TRAINING_WORKER, Machines, processes_on, wait_for
from tests.chaos.runs import Run
from tests.test_sweep import JOBS, command, policies, rows


@pytest.mark.slow
def test_a_study_goes_on_when_the_machine_under_training_vanishes(
    machines: Machines, toy_model: str, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    words = command(root, toy_model, "study", "--space.betas", "0.1", "0.3", "--no-test-time")
    job = Run(machines=machines, words=words[2:], log=tmp_path / "log", script=str(JOBS / "sweep.py"))
    job.start()
    wait_for(lambda: job.check_running() and policies(root))
    before = policies(root)

    def under_training() -> list:
        job.check_running()
        return [node for node in machines.workers if processes_on(node, TRAINING_WORKER)]

    machines.exchange(Random(0).choice(wait_for(under_training)))
    assert job.process.wait(900) == 0, job.log.read_text()
    assert before.items() <= policies(root).items()
    assert Store(str(root)).find("studies/study").counts["num_failed"] == 0
    sought = [row for row in rows(root, "study") if row["metric"] == "VQA accuracy"]
    assert {row["beta"] for row in sought} == {"0.1", "0.3"}
    assert all(float(row["difference_low"]) <= float(row["difference_high"]) for row in sought)
