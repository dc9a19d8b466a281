"""What each part of a study requests of the cluster, and whether the cluster has it."""

from collections.abc import Iterable

from seva_ray.core.artifacts import Artifact
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.runtime.resources import GENERATION, TRAINING
from seva_ray.runtime.sizing import gpus_each, num_engines, num_workers
from seva_ray.stages.engine_pool import check_engines, encoding_need
from seva_ray.stages.generate import rows_per_unit
from seva_ray.stages.study.resource_queue import ResourceRequest, check_fits
from seva_ray.stages.training.group import check_workers


def training_request(config: Train, capacity: ResourceRequest) -> ResourceRequest:
    """The resources of one group of training workers."""
    number = num_workers(config, capacity)
    return {"GPU" if capacity.get("GPU") else "CPU": number, **node_kind(TRAINING, number, capacity)}


def generation_request(config: Generate, capacity: ResourceRequest) -> ResourceRequest:
    """The resources of a pool of engines; if they take no GPUs, also one CPU for encoding images."""
    engines, gpus = num_engines(config, capacity), gpus_each(config, capacity)
    if gpus:
        return {"GPU": gpus * engines, **node_kind(GENERATION, gpus * engines, capacity)}
    return {"CPU": 1 + engines, **node_kind(GENERATION, engines, capacity)}


def node_kind(name: str, amount: float, capacity: ResourceRequest) -> dict[str, float]:
    """An amount of nodes of one kind, or nothing if the cluster has no nodes of that kind."""
    return {name: amount} if name in capacity else {}


def check_cluster(generate: Generate, train: Train, prompts: Iterable[Artifact], capacity: ResourceRequest) -> None:
    """Raises: InputError if the cluster is too small for one training run, for one engine, or for encoding a shard of
    any of the prompts."""
    check_fits("a training run", training_request(train, capacity), capacity, "--train.num-workers")
    engines = {"--generate.min-engines": generate.min_engines}
    sharded = min(gpus_each(generate, capacity), getattr(generate.engine, "tensor_parallel_size", 1))
    engines |= {"--generate.engine.tensor-parallel-size": sharded}
    lower = " or ".join(option for option, number in engines.items() if number > 1)
    check_fits("an engine and what feeds it", generation_request(generate, capacity), capacity, lower)
    check_workers(train)
    check_engines(generate, encoding_need(max(map(rows_per_unit, prompts))))
