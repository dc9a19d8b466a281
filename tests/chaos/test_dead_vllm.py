"""Real vLLM whose engine dies: the actor notices and ends, Ray restarts it, and every row is there once."""

from pathlib import Path
from random import Random

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.sources import ToyWorld
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.chaos.machines import ENGINE_ACTOR, VLLM_ENGINE, Machines, wait_for
from tests.chaos.runs import Run, shards


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "words"),
    [
        (VLLM_ENGINE, ["--generate.engine.own-process"]),
        (ENGINE_ACTOR, ["--generate.engine.no-own-process"]),
    ],
    ids=["child of the actor", "actor"],
)
def test_answers_from_before_and_after_the_kill_are_those_of_a_part_without_one(
    victim: str, words: list[str], machines: Machines, model: Model, tmp_path: Path
):
    """Two equal prompt sets in one job: the first is answered before the kill, and says what the second must be."""
    store = Store(str(tmp_path))
    names = ("before", "during")
    prompts = [prepare(Prepare(shard_size=8), store, name, ToyWorld(num_images=20)) for name in names]
    before, during = [store.uri(f"responses/{model.name}/{name}/clean") for name in names]
    all_words = ["vllm", "--root", store.root, "--model", model.directory, "--prompts", *[p.name for p in prompts]]
    run = Run(machines=machines, words=all_words + words, log=tmp_path / "log")
    run.start()
    num_shards = prompts[0].counts["num_shards"]
    wait_for(lambda: run.check_running() and Path(during).exists() and len(shards(during)) >= 2)
    wait_for(lambda: run.check_running() and len(shards(before)) == num_shards)  # the last unit of it may be in flight
    (actor,) = machines.processes(ENGINE_ACTOR)
    machines.kill_process(victim, Random(0))
    assert len(shards(during)) < num_shards, "there is work left for the next engine"
    run.finish()
    assert not actor.is_running()
    assert shards(during) == shards(before)
    records = [store.find(f"responses/{model.name}/{name}/clean").counts for name in names]
    assert records[0] == records[1]
    assert records[0]["num_responses"] == prompts[0].counts["num_prompts"]
