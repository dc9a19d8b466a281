"""The pool of engines grows with an autoscaling cluster, from no engine node to all of them, and leaves them after."""

import json
import os
import subprocess
import sys

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_table
from seva_ray.stages.prepare import shards_of
from tests.autoscaling import autoscaling_cluster
from tests.environment import pythonpath

DRIVER = """
import json, sys, threading, time
import ray
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine
from seva_ray.vlm.models import Model
from seva_ray.sources import ToyWorld
from seva_ray.runtime.cluster import join
from seva_ray.engines.config import Generate
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare

def engine_nodes():
    return sum(node["Alive"] and "generation" in node["Resources"] for node in ray.nodes())

store = Store(sys.argv[1])
prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=60))
join()
seen, over = [engine_nodes()], threading.Event()

def watch():
    while not over.wait(0.2):
        if engine_nodes() != seen[-1]:
            seen.append(engine_nodes())

watcher = threading.Thread(target=watch)
watcher.start()
engine = FakeEngine(seconds_per_request=0.1, journal=sys.argv[2])
config = Generate(engine=engine, min_engines=1, max_engines=2)
generate(config, store, Model(name="fake", directory=".", fingerprint="fake"), [(prompts, "clean")])
deadline = time.monotonic() + 120
while seen[-1] and time.monotonic() < deadline:
    time.sleep(0.5)
over.set()
watcher.join()
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_engines_come_with_the_nodes_that_the_autoscaler_adds_and_nodes_go_when_there_is_no_work(tmp_path):
    journal = tmp_path / "journal"
    with autoscaling_cluster({"CPU": 6}, {"generation": {"CPU": 1, "generation": 1}}, max_workers=2) as cluster:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(tmp_path / "runs"), str(journal)],
            env=os.environ | cluster.environment | {"PYTHONPATH": pythonpath()},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen[0] == 0 == seen[-1]
    assert max(seen) == 2
    pids = {line.split()[1] for line in journal.read_text().splitlines()}
    assert len(pids) == 2, "both engines served"
    store = Store(str(tmp_path / "runs"))
    prompts, responses = store.find("prompts/toy"), store.find("responses/fake/toy/clean")
    for name in shards_of(prompts):
        ids = [read_table(artifact.path(name))["prompt_id"].to_pylist() for artifact in (prompts, responses)]
        assert ids[0] == ids[1]
