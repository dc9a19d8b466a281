"""What a cluster offers and can add, and the line for what has no place in it."""

import json
from pathlib import Path

import pytest

from presets import TOY_GENERATE
from seva_ray.core.errors import InputError
from seva_ray.runtime.resources import (
    HEAD,
    Need,
    NodeType,
    can_be_added,
    capacity,
    check_places,
    described,
    kind,
    no_place,
    options,
)
from seva_ray.stages.engine_pool import engine_need
from seva_ray.stages.training.group import worker_need
from tests.autoscaling import configuration

GIB = 2**30
POOLS = [
    NodeType(name=HEAD, resources={"CPU": 0}),
    NodeType(name="augmentation", resources={"CPU": 16, "memory": 32 * GIB}, number=8),
    NodeType(name="generation", resources={"CPU": 8, "GPU": 1, "generation": 1, "memory": 32 * GIB}, number=4),
    NodeType(name="training", resources={"CPU": 8, "GPU": 4, "training": 4, "memory": 32 * GIB}, number=2),
]
ENGINE = {"CPU": 1, "GPU": 1, "generation": 1}
WORKER = {"CPU": 0, "GPU": 1, "training": 1}
ENCODING = {"CPU": 1, "memory": GIB // 2}


def test_each_kind_of_work_has_its_place_at_the_same_time():
    needs = [Need("an engine", 4, ENGINE), Need("a worker", 8, WORKER), Need("a task", 8 * 16, ENCODING)]
    assert no_place(needs, POOLS) == ""


def test_what_no_node_has_is_named_with_the_shapes_that_there_are():
    line = no_place([Need("an engine", 1, {"CPU": 1, "GPU": 2, "generation": 2})], POOLS)
    assert line == (
        "no node is large enough for an engine: it needs 1 CPU, 2 GPU and 2 of resource 'generation' on one node, "
        "but no node has 2 of resource 'generation'. The nodes that exist or can be added are: head (none of these), "
        "8 x augmentation (16 CPU), 4 x generation (8 CPU, 1 GPU and 1 of resource 'generation'), "
        "2 x training (8 CPU and 4 GPU)."
    )
    assert "no node has all of these. " in no_place([Need("a hybrid", 1, {"generation": 1, "training": 1})], POOLS)


def test_where_there_are_too_few_nodes_the_line_says_which_ones_would_help():
    line = no_place([Need("a training worker", 9, WORKER)], POOLS)
    assert line == (
        "no room for a training worker: the job needs 9 of them, each with 1 GPU and 1 of resource 'training', "
        "but there is room for only 8. More nodes of type training would help."
    )
    advised = no_place([Need("a training worker", 9, WORKER, fewer="--train.num-workers")], POOLS)
    assert advised == line.removesuffix(".") + ", and so would a lower --train.num-workers."


def test_what_each_takes_too_much_of_is_named_with_the_option_that_lowers_it():
    memory = Need("a task", 1, {"CPU": 1, "memory": 64 * GIB}, smaller={"memory": "--prepare.shard-size"})
    assert no_place([memory], POOLS).endswith(". A lower --prepare.shard-size needs less.")
    cpus = memory._replace(each={"CPU": 99, "memory": GIB})
    assert "shard-size" not in no_place([cpus], POOLS), "it would not help"


def test_an_engine_on_a_machine_with_one_cpu_leaves_no_room_for_what_feeds_it():
    laptop = NodeType(name=HEAD, resources={"CPU": 1, "memory": 8 * GIB})
    needs = [Need("an engine", 1, {"CPU": 1}), Need("the task that encodes images", 1, ENCODING)]
    assert no_place(needs, [laptop]) == (
        "no room for the task that encodes images: it needs 1 CPU and 0.5 GiB memory, but the rest of the job leaves "
        "no room. A larger machine would help."
    )
    assert no_place(needs, [laptop, laptop]) == ""


def test_plain_nodes_are_filled_first_so_that_special_ones_are_left_for_who_needs_them():
    types = [NodeType(name="g", resources={"CPU": 1, "generation": 1, "memory": GIB}), POOLS[1]]
    assert no_place([Need("a task", 1, ENCODING), Need("an engine", 1, {"CPU": 1, "generation": 1})], types) == ""


def test_a_cluster_description_gives_what_can_be_added_to_the_nodes_that_are_there(tmp_path: Path):
    path = tmp_path / "cluster.json"
    shapes = {"generation": {"CPU": 8, "GPU": 1, "generation": 1}, "augmentation": {"CPU": 16}}
    path.write_text(json.dumps(configuration("127.0.0.1:1", {"CPU": 4}, shapes, max_workers=3)))
    found = {item.name: item for item in can_be_added(described(path), {"augmentation": 3, "generation": 1, HEAD: 1})}
    assert set(found) == {"generation"}, "no second head, and no more of what is there already"
    assert found["generation"].number == 2
    assert {name: found["generation"].resources[name] for name in ("CPU", "GPU", "generation")} == shapes["generation"]
    assert can_be_added([], {}) == []


KUBERAY = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: seva}
spec:
  headGroupSpec:
    resources: {CPU: "0"}
    rayStartParams: {}
    template: {spec: {containers: [{name: ray, resources: {limits: {cpu: "4", memory: 24Gi}}}]}}
  workerGroupSpecs:
    - groupName: generation
      minReplicas: 0
      maxReplicas: 16
      resources: {CPU: "7", GPU: "1", generation: "1"}
      rayStartParams: {}
      template: {spec: {containers: [{name: ray, resources: {limits: {cpu: "7", memory: 24Gi, nvidia.com/gpu: "1"}}}]}}
"""


def test_a_cluster_of_kuberay_describes_itself_too(tmp_path: Path):
    path = tmp_path / "cluster.yaml"
    path.write_text(KUBERAY)
    (found,) = can_be_added(described(path), {HEAD: 1})
    assert found == NodeType(
        name="generation", resources={"CPU": 7, "GPU": 1, "generation": 1, "memory": 24 * GIB}, number=16
    )


@pytest.mark.parametrize("text", [None, "a: [", "- 1", "available_node_types: {a: {resources: {CPU: many}}}"])
def test_a_file_that_is_no_cluster_description_is_named(text: str | None, tmp_path: Path):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"^{path}: no cluster description"):
        described(path)


def test_what_is_needed_in_ray_datas_words():
    assert options(ENGINE) == {"num_cpus": 1, "num_gpus": 1, "resources": {"generation": 1}}
    assert options(ENCODING) == {"num_cpus": 1, "memory": GIB // 2}


def test_a_machine_without_kinds_is_asked_for_none(ray_cluster: None):
    assert kind("generation") == {}
    assert engine_need(TOY_GENERATE) == {"CPU": 1, "GPU": 0}
    assert worker_need() == {"CPU": 1}
    assert capacity() == {"CPU": 2}


def test_a_cluster_that_is_too_small_is_told_at_once_and_how_it_could_grow(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=r"^no room for a worker: the job needs 3 of them, .* 2\. .*help\.$"):
        check_places(Need("a worker", 3, {"CPU": 1}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match=r"add nodes, set SEVA_NODE_TYPES to the path of its description\.$"):
        check_places(Need("a worker", 3, {"CPU": 1}))
    check_places(Need("a worker", 2, {"CPU": 1}))
