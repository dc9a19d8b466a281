"""How many training workers and engines a job starts: by pure arithmetic, and on a real Ray with GPUs that are none."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from presets import LLAVA_13B_TRAIN, LLAVA_GENERATE, LLAVA_TRAIN, TOY_GENERATE, TOY_TRAIN
from seva_ray.core.fingerprints import fingerprint_of, identity
from seva_ray.dpo.config import Train
from seva_ray.engines import FakeEngine, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.resources import total
from seva_ray.runtime.sizing import engines_at_once, num_engines, num_workers
from tests.environment import pythonpath
from tests.test_places import POOLS

BOX = {number: {"CPU": 96.0, "GPU": float(number)} for number in (1, 2, 4, 8)}
"""Machines by their number of GPUs."""
LAPTOP = {"CPU": 2.0}
CLUSTER = total(POOLS)
"""4 GPUs for engines and 8 for training, each kind on nodes of its own."""


@pytest.mark.parametrize("there", BOX.values(), ids=str)
def test_a_machine_trains_and_generates_on_all_its_gpus(there: dict[str, float]):
    assert num_workers(LLAVA_TRAIN, there) == there["GPU"]
    assert num_workers(LLAVA_13B_TRAIN, there) == there["GPU"]
    assert num_engines(LLAVA_GENERATE, there) == there["GPU"]
    assert engines_at_once(LLAVA_GENERATE, there, there) == there["GPU"]


def test_the_toy_trains_with_two_workers_at_most():
    assert [num_workers(TOY_TRAIN, there) for there in (LAPTOP, *BOX.values())] == [2, 1, 2, 2, 2]
    assert num_workers(TOY_TRAIN, {"CPU": 1.0}) == 1


def test_workers_share_the_global_batch_evenly():
    found = {gpus: num_workers(LLAVA_TRAIN, {"GPU": float(gpus)}) for gpus in (3, 6, 7, 12, 100, 1000)}
    assert found == {3: 2, 6: 4, 7: 4, 12: 8, 100: 64, 1000: 128}
    assert num_workers(replace(LLAVA_TRAIN, global_batch_size=96), {"GPU": 6.0}) == 6
    assert num_workers(LLAVA_TRAIN, {"GPU": math.inf}) == 128
    for gpus, number in found.items():
        assert LLAVA_TRAIN.can_share(number), gpus
        assert not any(LLAVA_TRAIN.can_share(more) for more in range(number + 1, gpus + 1))


def test_what_is_given_is_kept_wherever_it_runs():
    for there in (LAPTOP, BOX[1], BOX[8]):
        assert num_workers(replace(LLAVA_TRAIN, num_workers=4), there) == 4
        assert num_engines(replace(LLAVA_GENERATE, min_engines=3, max_engines=3), there) == 3
    assert num_engines(replace(LLAVA_GENERATE, max_engines=2), BOX[8]) == 2


def test_an_elastic_group_grows_to_where_every_number_on_the_way_shares_the_global_batch():
    elastic = Train(min_workers=1, zero_stage=0, global_batch_size=24, per_device_batch_size=2)
    found = [num_workers(elastic, {"GPU": float(gpus)}) for gpus in (1, 2, 3, 4, 5, 6, 12)]
    assert found == [1, 2, 3, 4, 4, 4, 4], "12 pairs cannot be shared by 5"
    assert num_workers(replace(elastic, min_workers=3), {"GPU": 2.0}) == 3, "for which there is no place"


def test_a_cluster_with_nodes_of_kinds_uses_those_of_the_right_kind():
    assert num_workers(LLAVA_TRAIN, CLUSTER) == 8
    assert num_engines(LLAVA_GENERATE, CLUSTER) == 4
    assert num_engines(Generate(engine=FakeEngine()), CLUSTER) == 4


def test_nodes_that_are_still_to_come_are_counted_but_no_engine_is_held_back_for_them():
    now = total(POOLS[:1])
    assert engines_at_once(LLAVA_GENERATE, CLUSTER, now) == 1
    some = total([*POOLS[:2], replace(POOLS[2], number=3)])
    assert engines_at_once(LLAVA_GENERATE, CLUSTER, some) == 3
    assert engines_at_once(replace(LLAVA_GENERATE, max_engines=2), CLUSTER, some) == 2
    assert engines_at_once(replace(LLAVA_GENERATE, min_engines=4), CLUSTER, some) == 4


def test_an_engine_of_several_gpus_counts_them_all():
    sharded = replace(LLAVA_GENERATE, engine=VllmEngine(tensor_parallel_size=4))
    assert [num_engines(sharded, BOX[gpus]) for gpus in (1, 4, 8)] == [1, 1, 2]


def test_engines_leave_a_cpu_for_what_encodes_their_images():
    assert num_engines(LLAVA_GENERATE, {"CPU": 8.0, "GPU": 8.0}) == 7


def test_without_gpus_there_is_one_engine_which_uses_all_cpus_of_its_node():
    for there in (LAPTOP, {"CPU": 64.0}):
        assert num_engines(TOY_GENERATE, there) == 1
    four = replace(TOY_GENERATE, max_engines=4)
    assert num_engines(four, LAPTOP) == 1
    assert engines_at_once(four, {"CPU": 64.0}, {"CPU": 64.0}) == 1, "the others come when they are needed"
    assert num_engines(TOY_GENERATE, {"CPU": 64.0, "generation": 3.0}) == 3


def test_a_cluster_that_grows_without_limit_has_a_number_of_engines_all_the_same():
    assert num_engines(LLAVA_GENERATE, {"CPU": math.inf, "GPU": math.inf}) == 1024


def test_each_engine_says_how_many_gpus_it_takes():
    engines = (VllmEngine(), VllmEngine(tensor_parallel_size=2), TransformersEngine(), FakeEngine())
    assert [engine.gpus for engine in engines] == [1, 2, 1, 0]


def test_recipes_are_those_of_the_time_when_the_numbers_had_defaults_of_their_own():
    """Fingerprints of commit 9fd8133, where num_workers was 8 (the toy's 2) and max_engines 1."""
    trains = {"llava-7b": LLAVA_TRAIN, "llava-13b": LLAVA_13B_TRAIN, "toy": TOY_TRAIN}
    generates = {"llava-7b": LLAVA_GENERATE, "toy": TOY_GENERATE}
    assert {name: fingerprint_of({"train": identity(config)}) for name, config in trains.items()} == {
        "llava-7b": "bc886814066ac659",
        "llava-13b": "bc886814066ac659",
        "toy": "dbfdde943b30efcf",
    }
    assert {name: fingerprint_of({"generate": identity(config)}) for name, config in generates.items()} == {
        "llava-7b": "8de13e60633e052f",
        "toy": "ca0f6668319cde60",
    }


ON_RAY = """
import json, sys, time
from dataclasses import dataclass, replace
import ray
from presets import LLAVA_GENERATE, LLAVA_TRAIN, TOY_TRAIN
from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine, TransformersEngine
from seva_ray.core.errors import InputError
from seva_ray.vlm.models import Model
from seva_ray.sources import ToyWorld
from seva_ray.stages.engine_pool import check_engines, encoding_need, engine_need
from seva_ray.stages.generate import Generate, generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.runtime import preflight
from seva_ray.runtime.resources import capacity
from seva_ray.runtime.sizing import num_engines
from seva_ray.stages.training.group import check_training, group_size

@dataclass(frozen=True, kw_only=True)
class OnGpu(FakeEngine):
    kind = "OnGpu"
    gpus = 1

    def load(self, directory, decoding, image_options):
        with open(self.journal + ".gpus", "a") as file:
            file.write(f"{ray.get_gpu_ids()[0]} ")
        time.sleep(2)
        return super().load(directory, decoding)

preflight.cards = lambda kind: []  # these GPUs are only numbers
gpus, root = int(sys.argv[1]), sys.argv[2]
ray.init(num_cpus=gpus + 2, num_gpus=gpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
store = Store(root)
for config in (LLAVA_TRAIN, TOY_TRAIN):
    check_training(config, store, "a")
found = {"workers": [group_size(config, "") for config in (LLAVA_TRAIN, TOY_TRAIN)]}
check_engines(LLAVA_GENERATE, encoding_need(8))
found["engines"] = num_engines(LLAVA_GENERATE, capacity())
found["transformers"] = engine_need(replace(LLAVA_GENERATE, engine=TransformersEngine()))
refused = []
for fails in (
    lambda: check_training(replace(LLAVA_TRAIN, num_workers=16), store, "a"),
    lambda: check_engines(replace(LLAVA_GENERATE, min_engines=9, max_engines=9), encoding_need(8)),
    lambda: check_engines(
        replace(LLAVA_GENERATE, engine=replace(LLAVA_GENERATE.engine, tensor_parallel_size=16)), encoding_need(8)
    ),
):
    try:
        fails()
    except InputError as error:
        refused.append(str(error))
found["refused"] = refused
prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=20))
config = Generate(engine=OnGpu(journal=root + "/journal", seconds_per_request=0.05))
model = Model(name="fake", directory=".", fingerprint="fake")
(made,) = generate(config, store, model, [(prompts, "clean")])
found["units"] = prompts.counts["num_shards"]
print(json.dumps(found))
"""


@pytest.mark.parametrize("gpus", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_on_a_real_ray_a_job_for_llava_finds_its_place_and_every_gpu_has_an_engine(gpus: int, tmp_path: Path):
    """Logical GPUs: Ray hands out their numbers, and nothing computes on them."""
    repository = Path(__file__).parent.parent
    hidden = ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = pythonpath(repository / "jobs")
    command = [sys.executable, "-c", ON_RAY, str(gpus), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["workers"] == [gpus, min(gpus, 2)]
    assert found["engines"] == gpus
    assert found["transformers"] == {"CPU": 1, "GPU": 1}
    too_many, engines, wide = found["refused"]
    assert too_many == (
        f"no room for a training worker: the job needs 16 of them, each with 1 GPU, but there is room for only {gpus}. "
        "A larger machine would help, and so would a lower --train.num-workers."
    )
    assert engines == (
        f"no room for an engine: the job needs 9 of them, each with 1 CPU and 1 GPU, but there is room for only "
        f"{gpus}. A larger machine would help, and so would a lower --generate.min-engines."
    )
    assert wide == (
        "no node is large enough for an engine: it needs 1 CPU and 16 GPU on one node, but no node has 16 GPU. The "
        f"nodes that exist or can be added are: head ({gpus + 2} CPU and {gpus} GPU). "
        "A lower --generate.engine.tensor-parallel-size needs less."
    )
    # One engine on each GPU, none of which is ended and loaded again.
    loaded = Counter((tmp_path / "journal.gpus").read_text().split())
    assert loaded == {str(number): 1 for number in range(min(gpus, math.ceil(found["units"] / 2)))}
    served = [line.split()[1] for line in (tmp_path / "journal").read_text().splitlines()]
    assert len(set(served)) > len(loaded) / 2, "they serve side by side"
