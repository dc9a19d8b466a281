"""room: what the parts of a study take of the cluster, and whether it has that."""

from collections.abc import Iterable

from seva_ray.core.artifacts import Artifact
from seva_ray.dpo.config import Train
from seva_ray.engines import VllmEngine
from seva_ray.runtime.resources import GENERATION, TRAINING
from seva_ray.stages.generate import Generate, check_engines, encoding_need, rows_per_unit
from seva_ray.stages.study.resource_requests import ResourceRequest, check_fits
from seva_ray.stages.training.train import check_workers


def claim_of_training(config: Train, capacity: ResourceRequest, on_gpus: bool) -> ResourceRequest:
    return {"GPU" if on_gpus else "CPU": config.num_workers, **of_kind(TRAINING, config.num_workers, capacity)}


def claim_of_generation(config: Generate, capacity: ResourceRequest, on_gpus: bool) -> ResourceRequest:
    """Its engines; without GPUs also a CPU for what prepares images."""
    engines, each = num_engines(config, capacity, on_gpus), gpus_each(config)
    if on_gpus:
        return {"GPU": each * engines, **of_kind(GENERATION, each * engines, capacity)}
    return {"CPU": 1 + engines, **of_kind(GENERATION, engines, capacity)}


def num_engines(config: Generate, capacity: ResourceRequest, on_gpus: bool) -> int:
    """As many as there may be and there is room for."""
    each = gpus_each(config) if on_gpus else 1
    room = [config.max_engines, capacity.get("GPU", 0) // each if on_gpus else capacity.get("CPU", 0) - 1]
    if GENERATION in capacity:
        room.append(capacity[GENERATION] // each)
    return int(max(config.min_engines, min(room)))


def gpus_each(config: Generate) -> int:
    """GPUs of one engine, where it runs on GPUs."""
    return config.engine.tensor_parallel_size if isinstance(config.engine, VllmEngine) else 1


def of_kind(name: str, amount: float, capacity: ResourceRequest) -> dict[str, float]:
    """As `places.kind`: nothing where the cluster has no nodes of that kind."""
    return {name: amount} if name in capacity else {}


def check_room(
    generate: Generate, train: Train, prompts: Iterable[Artifact], capacity: ResourceRequest, on_gpus: bool
) -> None:
    """Raises: InputError where the cluster is too small for one training run, one engine, or the encoding of a shard of
    any of the prompts."""
    check_fits("a training run", claim_of_training(train, capacity, on_gpus), capacity)
    check_fits("an engine and what feeds it", claim_of_generation(generate, capacity, on_gpus), capacity)
    check_workers(train)
    check_engines(generate, encoding_need(max(map(rows_per_unit, prompts))))
