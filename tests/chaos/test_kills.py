"""Exactly once, whatever dies: an encoding task, an engine, a machine, the driver; on a disk and in an object store.

`CHAOS_ROUNDS` says how often each of them is killed; `make chaos` is the long form.
"""

import os
from pathlib import Path
from random import Random

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_table
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import read_responses
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.chaos.driver import NUM_ENGINES, PRESETS
from tests.chaos.machines import ENCODING_TASK, ENGINE_ACTOR, Machines, wait_for
from tests.chaos.runs import Run, shards, uninterrupted

NUM_ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
DRIVE = PRESETS["fake"]
SHARD_SIZE = 8
ROWS_IN_FLIGHT = SHARD_SIZE * DRIVE.generate.units_per_engine * NUM_ENGINES


@pytest.mark.parametrize(
    ("place", "victims"), [pytest.param("disk", ["engine"], marks=pytest.mark.slow), ("s3", ["engine", "machine"])]
)
def test_every_row_is_there_once_with_the_same_bytes_and_little_is_done_twice(
    place: str, victims: list[str], machines: Machines, s3: str, model: Model, tmp_path: Path
):
    random = Random(NUM_ROUNDS)
    num_kills = NUM_ROUNDS * (2 + len(victims))
    store = Store(str(tmp_path / "runs") if place == "disk" else f"{s3}/runs")
    prompts = prepare(Prepare(shard_size=SHARD_SIZE), store, "toy", ToyWorld(num_images=10 * num_kills))
    ids = [prompt_id for name in sorted(shards(prompts.uri)) for prompt_id in column(prompts.path(name))]
    num_rows = len(ids) * len(DRIVE.views)

    journal = tmp_path / "journal"
    journal.touch()
    words = ["fake", "--root", store.root, "--model", model.directory, "--generate.engine.journal", str(journal)]
    run = Run(machines=machines, words=words, log=tmp_path / "log")
    moments = iter(sorted(random.sample(range(num_rows * 4 // 5), num_kills - NUM_ROUNDS)))

    def wait_for_a_moment() -> None:
        moment = next(moments)
        wait_for(lambda: run.check_running() and len(journal.read_text().splitlines()) >= moment)

    for _ in range(NUM_ROUNDS):
        run.start()
        machines.kill_process(ENCODING_TASK, random)  # there are some now: encoding is far ahead of the engines
        for victim in random.sample(victims, len(victims)):
            wait_for_a_moment()
            machines.kill_node(random) if victim == "machine" else machines.kill_process(ENGINE_ACTOR, random)
        wait_for_a_moment()
        run.kill()
    run.start()
    run.finish()

    elsewhere = Store(str(tmp_path / "uninterrupted"))
    for view in DRIVE.views:
        name = f"responses/{model.name}/toy/{view}"
        expected = uninterrupted(DRIVE.generate, elsewhere, model, prompts, view)
        assert shards(store.uri(name)) == shards(expected.uri)
        assert store.find(name).counts == expected.counts
        assert [response.prompt_id for response in read_responses(prompts, store.find(name))] == ids
    served = [line.split()[-1] for line in journal.read_text().splitlines()]
    assert set(served) == set(ids)
    assert 0 <= len(served) - num_rows <= num_kills * ROWS_IN_FLIGHT


def column(uri: str, name: str = "prompt_id") -> list[str]:
    return read_table(uri, columns=[name])[name].to_pylist()
