"""Whole runs in a row on one cluster: what they took is there again after each of them. `LEAK_RUNS` says how many.

Counted are actors, placement groups, the resources that are free, processes of workers, objects in the object store,
files in /dev/shm and marks of owners. Each run keeps its engines until they are in the way, as a job does.
"""

import gc
import os
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray._private.state import actors
from ray.util import placement_group_table

from presets import TOY_TRAIN
from seva_ray.engines import TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.kept_engines import kept_engines
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.training.train import train
from tests.small_run import SmallRun

NUM_RUNS = int(os.environ.get("LEAK_RUNS", "2"))
SETTLES_S = 60.0
"""Longest time until what has ended is gone, in seconds."""
TRAIN = replace(TOY_TRAIN, num_workers=1, num_pairs=8, global_batch_size=8, per_device_batch_size=8, num_repeats=1)


def taken(root: str) -> dict[str, Any]:
    """What is in use now."""
    # What Ray Data keeps in the driver about a dataset that it has run refers to itself: a few objects of some kB. They
    # are in the object store until Python collects them.
    gc.collect()
    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage \d+ MiB, (\d+) objects", summary)
    titles = (" ".join(child.cmdline()[:1]) for child in psutil.Process().children(recursive=True) if alive(child))
    # An idle process waits for the next task, and Ray's own actor of statistics lives as long as the cluster.
    busy = [title for title in titles if title.startswith("ray::") and not re.match(r"ray::(IDLE|_StatsActor)", title)]
    return {
        "actors": Counter(actor["ActorClassName"] for actor in actors().values() if actor["State"] == "ALIVE"),
        "placement groups": sum(group["state"] != "REMOVED" for group in placement_group_table().values()),
        "CPUs": ray.available_resources().get("CPU"),
        "processes": Counter(busy),
        "objects": int(found.group(1)) if found else 0,
        "shared memory": sorted(path.name for path in Path("/dev/shm").glob("plasma*")),
        "owners": sorted(path.name for path in Path(root, ".owners").glob("*")),
    }


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.cmdline())
    except psutil.Error:
        return False


def quiet(root: str) -> dict[str, Any]:
    """What is in use once it does not change any more."""
    last: dict[str, Any] = {}
    while (now := taken(root)) != last:
        last = now
        time.sleep(20)  # Ray Train's controller was seen to end up to 15 s after its run
    return now


def settled(root: str, before: dict[str, Any]) -> dict[str, Any]:
    """What is in use when it is the same as before, or after SETTLES_S."""
    deadline = time.monotonic() + SETTLES_S
    while (now := taken(root)) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    return now


@pytest.mark.slow
def test_whole_runs_in_a_row_leave_nothing(run: SmallRun):
    root = run.store.root
    whole(run, "first")  # which starts what lives as long as the cluster
    before = quiet(root)
    for number in range(NUM_RUNS):
        whole(run, f"run-{number}")
        assert settled(root, before) == before, f"after {number + 1} runs"


def whole(run: SmallRun, name: str) -> None:
    """A run from prompts to a policy."""
    config = Generate(engine=TransformersEngine(), system="")
    prompts = prepare(Prepare(shard_size=8), run.store, name, ToyWorld(num_images=4))
    with kept_engines():
        views = [(prompts, view) for view in ("clean", "diffusion-900")]
        chosen, rejected = generate(config, run.store, run.model, views)
        pairs = pair(Pair(), run.store, prompts, chosen, [rejected])
        train(TRAIN, run.store, name, run.model, pairs)
