"""The whole main job on a cluster that begins with a head alone, and on one whose nodes vanish while it runs.

Real autoscaler, vLLM, TRL and DeepSpeed; the nodes are fake ones on this machine, of the kinds that clouds' nodes have.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Store
from tests.autoscaling import Autoscaling, autoscaling_cluster, vanish
from tests.chaos.machines import PATIENCE_S, wait_for
from tests.chaos.runs import shards
from tests.environment import pythonpath

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
IMPORTS = {"PYTHONPATH": pythonpath()}
NODE_TYPES = {
    "augmentation": {"CPU": 2},
    "generation": {"CPU": 2, "generation": 1},
    "training": {"CPU": 2, "training": 1},
}
VIEW = "diffusion-900"


def command(root: Path, model: str, *words: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "jobs" / "full.py"), "--root", str(root), "--model", model, "--views", VIEW,
        "--controls", "--benchmarks.toy-images", "3", "--prepare.shard-size", "8",
        "--train.num-repeats", "12", "--train.global-batch-size", "2", "--train.per-device-batch-size", "1",
        # So that there is no checkpoint but the one on notice; and being taken away is no failure.
        "--train.save-steps", "10000", "--train.max-failures", "0", *words,
        "source:toy-world", "--source.num-images", "10",
    ]  # fmt: skip


class Run:
    """A main job in a process of its own."""

    def __init__(self, cluster: Autoscaling, root: Path, model: str):
        self.cluster, self.store, self.model = cluster, Store(str(root)), Path(model).name
        self.log = root.with_suffix(".log")
        environment = os.environ | IMPORTS | cluster.environment | {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command(root, model), env=environment, stdout=log, stderr=log)

    def runs(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return True

    def says(self, words: str) -> bool:
        return self.runs() and words in self.log.read_text()

    def finish(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()

    def responses(self, view: str = "clean") -> dict[str, bytes]:
        uri = self.store.uri(f"responses/{self.model}/toy/{view}")
        return shards(uri) if Path(uri).exists() else {}

    def steps(self) -> list[dict[str, float]]:
        log = json.loads(Path(self.store.uri("policies/toy/log.json")).read_text())
        return [row for row in log if "loss" in row]


@contextmanager
def running(cluster: Autoscaling, root: Path, model: str) -> Iterator[Run]:
    run = Run(cluster, root, model)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Autoscaling]:
    with autoscaling_cluster({"CPU": 0}, NODE_TYPES, max_workers=3, idle_s=20) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(cluster: Autoscaling, trained_toy: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    assert not any(cluster.nodes(kind) for kind in NODE_TYPES), "it has only a head"
    with running(cluster, tmp_path_factory.mktemp("undisturbed") / "runs", trained_toy) as run:
        wait_for(lambda: run.says("train: step 10/"))
        assert cluster.nodes("training")
        run.finish()
    return run


def test_a_job_that_asks_for_more_than_the_cluster_can_add_ends_at_once_and_says_what_would_help(
    cluster: Autoscaling, trained_toy: str, tmp_path: Path
):
    words = command(tmp_path, trained_toy, "--train.num-workers", "4", "--train.global-batch-size", "4")
    done = subprocess.run(words, env=os.environ | IMPORTS | cluster.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: no room for a training worker: the job needs 4 of them, each with 1 CPU and 1 of resource 'training', "
        "but there is room for only 3. More nodes of type training would help, and so would a lower "
        "--train.num-workers."
    )
    assert not any(cluster.nodes(kind) for kind in NODE_TYPES), "it has asked for no node"


def test_the_whole_job_runs_on_a_cluster_that_begins_with_no_node_but_its_head_and_leaves_none(undisturbed: Run):
    pairs = undisturbed.store.find(f"pairs/{undisturbed.model}/toy/{VIEW}")
    assert pairs.counts["verdicts"]["kept"] > 10
    assert Path(undisturbed.store.uri("reports/toy/index.html")).exists()
    wait_for(lambda: not any(undisturbed.cluster.nodes(kind) for kind in NODE_TYPES))


def test_a_job_whose_nodes_vanish_while_they_generate_and_while_they_train_ends_as_one_left_in_peace(
    undisturbed: Run, cluster: Autoscaling, trained_toy: str, tmp_path: Path
):
    with running(cluster, tmp_path / "runs", trained_toy) as run:
        wait_for(lambda: run.runs() and cluster.nodes("generation"))
        ((of_engine, raylet),) = cluster.nodes("generation").items()
        wait_for(lambda: run.runs() and run.responses())
        vanish(raylet)
        done, all_of_them = (len(item.responses()) + len(item.responses(VIEW)) for item in (run, undisturbed))
        assert 0 < done < all_of_them, "there is work left for the next engine"

        wait_for(lambda: run.says("train: step 10/"))
        of_worker, raylet = next(iter(cluster.nodes("training").items()))
        cluster.give_notice(of_worker, seconds=300)
        saved = Path(run.store.uri("policies/toy/run/checkpoint_manager_snapshot.json"))
        wait_for(lambda: run.runs() and saved.exists())
        vanish(raylet)
        run.finish()
    assert of_engine not in cluster.nodes("generation")
    assert of_worker not in cluster.nodes("training")
    assert "train: resumed at step" in run.log.read_text()

    for view in ("clean", VIEW):
        assert run.responses(view) == undisturbed.responses(view)
    of_pairs = [item.store.uri(f"pairs/{item.model}/toy/{VIEW}/pairs") for item in (run, undisturbed)]
    assert shards(of_pairs[0]) == shards(of_pairs[1])
    found, expected = run.steps(), undisturbed.steps()
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for name in ("loss", "rewards/margins", "grad_norm", "learning_rate"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-4, abs=1e-6)
