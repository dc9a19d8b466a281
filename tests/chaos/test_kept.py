"""Engines that wait between two generations: a machine and an engine vanish meanwhile, and every row is there once."""

from pathlib import Path
from random import Random

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.sources import ToyWorld
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.chaos.driver import NUM_ENGINES, PRESETS
from tests.chaos.machines import ENGINE_ACTOR, Machines, wait_for
from tests.chaos.runs import Run, shards, uninterrupted

DRIVE = PRESETS["fake"]


@pytest.mark.slow
def test_the_next_generation_makes_each_row_once_with_the_same_bytes(machines: Machines, model: Model, tmp_path: Path):
    store, elsewhere = Store(str(tmp_path / "runs")), Store(str(tmp_path / "uninterrupted"))
    prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=10))
    journal, pause = tmp_path / "journal", tmp_path / "go on"
    words = ["fake", "--root", store.root, "--model", model.directory, "--pause", str(pause)]
    run = Run(machines=machines, words=[*words, "--generate.engine.journal", str(journal)], log=tmp_path / "log")
    run.start()
    first, second = [f"responses/{model.name}/toy/{view}" for view in DRIVE.views]
    wait_for(lambda: run.check_running() and store.record(first))
    wait_for(lambda: run.check_running() and len(machines.processes(ENGINE_ACTOR)) == NUM_ENGINES)
    machines.kill_node(Random(0))
    machines.kill_process(ENGINE_ACTOR, Random(0))
    assert not store.record(second)
    pause.touch()
    run.finish()
    for name, view in zip((first, second), DRIVE.views, strict=True):
        expected = uninterrupted(DRIVE.generate, elsewhere, model, prompts, view)
        assert shards(store.uri(name)) == shards(expected.uri)
        assert store.find(name).counts == expected.counts
    served = [line.split()[-1] for line in journal.read_text().splitlines()]
    assert len(served) == len(DRIVE.views) * len(set(served)), "nothing was at work, so nothing is done twice"
