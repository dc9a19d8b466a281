"""The group of workers that trains: how many there are, what each takes, and what fits on its GPU.

In: the settings of a training, its model, and the cluster. Raised before anything is generated, if it cannot train.
"""

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.core.outlines import local_outline
from seva_ray.core.storage import exists, read_bytes
from seva_ray.dpo.config import Train
from seva_ray.planning.memory import GIB, needed, training_refusal, with_batch_size
from seva_ray.private.ray import CHECKPOINT_INDEX
from seva_ray.runtime import preflight
from seva_ray.runtime.cluster import join
from seva_ray.runtime.resources import TRAINING, Need, capacity, check_places, has_gpus, kind
from seva_ray.runtime.sizing import num_workers
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import Model

NUM_WORKERS = "num_workers.txt"
"""A policy's file that says how many workers wrote the checkpoints of its run."""


def check_training(config: Train, store: Store, name: str) -> None:
    """Check this before the earlier stages run. Raises: InputError if the policy is missing and its workers do not fit
    into the cluster, or cannot use its GPUs."""
    uri = store.uri(f"policies/{name}")
    if not exists(f"{uri}/record.json"):
        join()
        check_workers(config, uri)
        if has_gpus():
            preflight.cards(TRAINING)


def check_training_memory(config: Train, store: Store, name: str, model: Model) -> None:
    """Check this before the earlier stages run. Raises: InputError if the policy is missing and does not fit into the
    memory of the GPUs, or if the part of the model that is trained cannot be found."""
    uri = store.uri(f"policies/{name}")
    if not exists(f"{uri}/record.json"):
        shape_of(local_outline(model.directory))
        check_memory(config, model.directory, uri)


def check_workers(config: Train, uri: str = "") -> None:
    """`uri` is the policy's. Raises: InputError if the cluster has no room for the workers, or if they cannot continue
    from the policy's checkpoints."""
    option = "--train.num-workers" if config.min_workers is None else "--train.min-workers"
    check_places(Need("a training worker", fewest(config, uri), worker_need(), fewer=option))


def check_memory(config: Train, directory: str, uri: str = "") -> None:
    """Raises: InputError if the GPUs that are there have too little memory to train this model."""
    if config.memory_check and has_gpus():
        shape, number, config = shape_of(local_outline(directory)), fewest(config, uri), sized(config, directory, uri)
        for card in preflight.cards(TRAINING):
            if line := training_refusal(shape, config, number, card.name, card.gib):
                raise InputError(line)


def memory_on_cpus(config: Train, directory: str, uri: str) -> float:
    """Memory that all workers take in a cluster without GPUs, in bytes; 0 if there are GPUs."""
    if has_gpus():
        return 0.0
    number = group_size(config, uri)
    return number * needed(shape_of(local_outline(directory)), sized(config, directory, uri), number) * GIB


def sized(config: Train, directory: str, uri: str = "") -> Train:
    """The settings with a number of pairs in one forward pass, if they leave it to the GPUs that are there."""
    if config.per_device_batch_size is not None:
        return config
    number, least = group_size(config, uri), fewest(config, uri)
    cards = preflight.cards(TRAINING) if has_gpus() else []
    shape = shape_of(local_outline(directory)) if cards else None
    return with_batch_size(config, shape, range(least, number + 1), min((card.gib for card in cards), default=None))


def fewest(config: Train, uri: str) -> int:
    """The smallest number of workers that training can start with."""
    return group_size(config, uri) if config.min_workers is None else config.min_workers


def group_size(config: Train, uri: str) -> int:
    """The number of workers that train. It is the number given; else the number that the run began with, if it
    continues from DeepSpeed's checkpoints, which no other number of workers can read; else as many as the cluster has
    room for.

    Raises: InputError if the number given cannot read the checkpoints.
    """
    wanted = num_workers(config, capacity())
    begun = f"{uri}/{NUM_WORKERS}"
    if not (uri and config.zero_stage and exists(f"{uri}/run/{CHECKPOINT_INDEX}") and exists(begun)):
        return wanted
    number = int(read_bytes(begun))
    if config.num_workers not in (None, number):
        raise InputError(
            f"{uri}/run: {number} workers wrote its checkpoints, and with zero_stage {config.zero_stage} no other "
            f"number can continue from them; use --train.num-workers {number}, or remove that directory to start again"
        )
    return number


def worker_need() -> dict[str, float]:
    """The resources that a training worker takes of its node."""
    return ({"CPU": 0, "GPU": 1} if has_gpus() else {"CPU": 1}) | kind(TRAINING)
