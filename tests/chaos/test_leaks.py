"""Whole runs in a row on one cluster, and a study whose trials are stopped: what they took is there again afterwards.

Counted are actors, placement groups, the resources that are free, processes of workers, objects and memory in the
object store, temporary files, files in /dev/shm and marks of owners. `LEAK_RUNS` says how many runs follow each other,
and `LEAK_STOPS` how many trials are stopped. Each run keeps its engines until they are in the way, as a job does.
"""

import gc
import os
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary
from ray._private.state import actors
from ray.util import placement_group, placement_group_table, remove_placement_group

from presets import TOY_TRAIN
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.kept_engines import kept_engines
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.sweep import Search, sweep
from seva_ray.stages.training.train import train
from seva_ray.studies.space import Space
from seva_ray.vlm.models import model_at
from tests.conftest import TEMPORARY_FILES
from tests.small_run import SmallRun

CACHES = ("torchinductor_", "pytest-of-")
"""How the names of directories begin that a user has one of, and that stay."""
NUM_RUNS = int(os.environ.get("LEAK_RUNS", "2"))
SETTLES_S = 60.0
"""Longest time until what has ended is gone, in seconds."""
TRAIN = replace(TOY_TRAIN, num_workers=1, num_pairs=8, global_batch_size=8, per_device_batch_size=8, num_repeats=1)


@pytest.fixture(autouse=True)
def one_place_for_temporary_files(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes its temporary files where those of the cluster do."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary_files()))


def taken(root: str) -> dict[str, Any]:
    """What is in use now."""
    # What Ray Data keeps in the driver about a dataset that it has run refers to itself: a few objects of some kB. They
    # are in the object store until Python collects them.
    gc.collect()
    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", summary)
    assert found, summary
    # An idle process waits for the next task, and Ray's own actor of statistics lives as long as the cluster.
    busy = [title for title in workers().values() if not re.match(r"ray::(IDLE|_StatsActor)", title)]
    return {
        "actors": Counter(actor["ActorClassName"] for actor in actors().values() if actor["State"] == "ALIVE"),
        "placement groups": sum(group["state"] != "REMOVED" for group in placement_group_table().values()),
        "CPUs": ray.available_resources().get("CPU"),
        "processes": Counter(busy),
        "object store": found.groups(),
        "temporary files": sorted(name for name in os.listdir(temporary_files()) if not name.startswith(CACHES)),
        "shared memory": sorted(set(os.listdir("/dev/shm")) - files_of_others()),
        "owners": sorted(path.name for path in Path(root, ".owners").glob("*")),
    }


def workers() -> dict[psutil.Process, str]:
    """The cluster's worker processes, and what each is at."""
    found: dict[psutil.Process, str] = {}
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found[child] = " ".join(child.cmdline()[:1])
    return {process: title for process, title in found.items() if title.startswith("ray::")}


def temporary_files() -> Path:
    """The directory in which all processes of the cluster make their temporary files."""
    return Path(ray._private.worker._global_node.get_temp_dir_path(), TEMPORARY_FILES)


def files_of_others() -> set[str]:
    """The names of files in /dev/shm that belong to other jobs of this machine."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    # joblib's semaphores have the number of their process in their names.
    named = ((name, re.match(r"sem\.loky-(\d+)-", name)) for name in os.listdir("/dev/shm"))
    found = {name for name, of in named if of and int(of.group(1)) not in ours and psutil.pid_exists(int(of.group(1)))}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(process.name) not in ours:
                found |= set(re.findall(r"/dev/shm/(\S+)", (process / "maps").read_text()))
    return found


def quiet(root: str, for_s: float = 20.0) -> dict[str, Any]:
    """What is in use once it does not change any more. Ray Train's controller was seen to end up to 15 s after its
    run."""
    last: dict[str, Any] = {}
    while (now := taken(root)) != last:
        last = now
        time.sleep(for_s)
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


@pytest.mark.slow
def test_whatever_a_stopped_run_would_leave_is_counted(ray_cluster: None, tmp_path: Path):
    class Left:
        def ready(self) -> None:
            pass

    kind: Any = ray.remote(num_cpus=1)(Left)
    before = taken(str(tmp_path))
    actor, group = kind.remote(), placement_group([{"CPU": 0.5}])
    ray.get([actor.ready.remote(), group.ready()])
    held = ray.put(bytes(2**21))
    scratch, shared = temporary_files() / "seva-train-left", Path(f"/dev/shm/seva-left-{os.getpid()}")
    scratch.mkdir()
    shared.write_bytes(b"")
    (tmp_path / ".owners").mkdir()
    (tmp_path / ".owners" / "left").write_bytes(b"")
    now = taken(str(tmp_path))
    assert [name for name in before if now[name] == before[name]] == [], "of these kinds nothing was noticed"
    ray.kill(actor)
    remove_placement_group(group)
    scratch.rmdir()
    shared.unlink()
    (tmp_path / ".owners" / "left").unlink()
    del held, actor, group
    assert settled(str(tmp_path), before) == before


NUM_STOPPED = int(os.environ.get("LEAK_STOPS", "20"))
"""How often the process of a trial is killed."""
MEAN_PAUSE_S = 3.0
"""Mean time between two kills, in seconds."""
NUM_POINTS = 2 + NUM_STOPPED // 2
"""Points of the study. One whose trial is killed three times is given up, so some are left."""


@pytest.mark.slow
def test_a_study_whose_trials_are_stopped_at_random_leaves_nothing(ray_cluster: None, toy_model: str, tmp_path: Path):
    """No point has a pair to train on, so that the trials spend their time waiting for answers. What training leaves is
    counted above."""
    store, model, tests = Store(str(tmp_path)), model_at(toy_model), ToyBenchmark(num_images=3)
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=3))
    generate(Generate(engine=FakeEngine()), store, replace(model, name="fake"), [(prompts, "clean")])
    before = quiet(store.root, 3.0)  # that generation has started what lives as long as the cluster
    num_asked = 2 * prompts.counts["num_prompts"]
    context = StudyContext(
        store=store,
        generate=Generate(engine=FakeEngine(seconds_per_request=NUM_STOPPED * MEAN_PAUSE_S / num_asked)),
        pair=Pair(),
        train=TRAIN,
        evaluate=Evaluate(),
        benchmarks=[tests],
        tests=[prepare(Prepare(), store, tests.name, tests)],
        prompts={(None, None): prompts},
        base_models=[model],
        seeds=[0],
        objective=(tests.name, "VQA accuracy"),
        capacity={"CPU": 2},
        on_gpus=False,
    )
    search = Search(max_concurrent=3)
    space = Space(views=("pad-0",), betas=tuple(number / 100 for number in range(1, NUM_POINTS + 1)))
    with trials_stopped() as stopped:
        outcomes = sweep(search, space, context, "leaks", f"{store.root}/studies/leaks", lambda *used: None)
    assert len(outcomes) == NUM_POINTS
    assert len(stopped) >= NUM_STOPPED // 2
    assert any("no pair is left" in outcome.error for outcome in outcomes), outcomes
    assert settled(store.root, before) == before


@contextmanager
def trials_stopped() -> Iterator[list[int]]:
    """While the block runs, processes of trials are killed at random times. Gives the ids of those that were."""
    rng, ended, stopped = random.Random(0), threading.Event(), list[int]()

    def stop() -> None:
        while len(stopped) < NUM_STOPPED and not ended.wait(rng.uniform(0, 2 * MEAN_PAUSE_S)):
            if trials := [process for process, title in workers().items() if "ImplicitFunc" in title]:
                trial = rng.choice(trials)
                trial.kill()
                stopped.append(trial.pid)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield stopped
    finally:
        ended.set()
        thread.join()
