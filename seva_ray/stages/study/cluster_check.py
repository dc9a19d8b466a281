"""What each part of a study requests of the cluster, and whether the cluster has it."""

from collections.abc import Iterable

from seva_ray.core.artifacts import Artifact
from seva_ray.dpo.config import Train
from seva_ray.engines import VllmEngine
from seva_ray.runtime.resources import GENERATION, TRAINING
from seva_ray.stages.generate import Generate, check_engines, encoding_need, rows_per_unit
from seva_ray.stages.study.resource_queue import ResourceRequest, check_fits
from seva_ray.stages.training.train import check_workers


def training_request(config: Train, capacity: ResourceRequest, on_gpus: bool) -> ResourceRequest:
    """The resources of one group of training workers."""
    return {"GPU" if on_gpus else "CPU": config.num_workers, **node_kind(TRAINING, config.num_workers, capacity)}


def generation_request(config: Generate, capacity: ResourceRequest, on_gpus: bool) -> ResourceRequest:
    """The resources of a pool of engines; without GPUs also one CPU for encoding images."""
    engines, each = num_engines(config, capacity, on_gpus), gpus_per_engine(config)
    if on_gpus:
        return {"GPU": each * engines, **node_kind(GENERATION, each * engines, capacity)}
    return {"CPU": 1 + engines, **node_kind(GENERATION, engines, capacity)}


def num_engines(config: Generate, capacity: ResourceRequest, on_gpus: bool) -> int:
    """Number of engines to start: max_engines, or fewer if the cluster has no room."""
    each = gpus_per_engine(config) if on_gpus else 1
    limits = [config.max_engines, capacity.get("GPU", 0) // each if on_gpus else capacity.get("CPU", 0) - 1]
    if GENERATION in capacity:
        limits.append(capacity[GENERATION] // each)
    return int(max(config.min_engines, min(limits)))


def gpus_per_engine(config: Generate) -> int:
    """Number of GPUs that one engine takes if it runs on GPUs."""
    return config.engine.tensor_parallel_size if isinstance(config.engine, VllmEngine) else 1


def node_kind(name: str, amount: float, capacity: ResourceRequest) -> dict[str, float]:
    """An amount of nodes of one kind, or nothing if the cluster has no nodes of that kind."""
    return {name: amount} if name in capacity else {}


def check_cluster(
    generate: Generate, train: Train, prompts: Iterable[Artifact], capacity: ResourceRequest, on_gpus: bool
) -> None:
    """Raises: InputError if the cluster is too small for one training run, for one engine, or for encoding a shard of
    any of the prompts."""
    check_fits("a training run", training_request(train, capacity, on_gpus), capacity)
    check_fits("an engine and what feeds it", generation_request(generate, capacity, on_gpus), capacity)
    check_workers(train)
    check_engines(generate, encoding_need(max(map(rows_per_unit, prompts))))
