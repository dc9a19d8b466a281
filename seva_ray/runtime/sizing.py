"""How many training workers and engines a job starts if its configuration leaves that to the cluster.

`there` is what the cluster has of each resource after it has grown as far as it can (`resources.capacity`). `now` is
what its nodes have before that.
"""

import math

from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.runtime.resources import GENERATION, TRAINING, Amounts

MOST_ENGINES = 1024
"""Largest number of engines in a cluster that can grow without limit."""


def num_workers(config: Train, there: Amounts) -> int:
    """Training workers: as given; else the largest number that has a place and can share the global batch evenly.

    An elastic group may shrink to any number from min_workers on, so all of these must share it. At least 1, or
    min_workers: whether that has a place is for `check_places` to say.
    """
    if config.num_workers is not None:
        return config.num_workers
    most = int(min(room_for_workers(there, there), config.global_batch_size))
    if config.min_workers is None:
        return max((number for number in range(1, most + 1) if config.can_share(number)), default=1)
    number = config.min_workers
    while number < most and config.can_share(number + 1):
        number += 1
    return number


def room_for_workers(there: Amounts, of: Amounts) -> float:
    """Training workers that have a place in `of`: each takes a GPU, or a CPU in a cluster without GPUs."""
    room = of.get("GPU" if there.get("GPU") else "CPU", 0)
    return min(room, of.get(TRAINING, 0)) if TRAINING in there else room


def num_engines(config: Generate, there: Amounts) -> int:
    """Engines that have a place at once, at most max_engines, and at least min_engines.

    Where max_engines is not given and they take no GPUs, one: it computes on all CPUs of its node. Where nodes declare
    `generation`, each of these is for one.
    """
    most = room_for_engines(config, there, there)
    if config.max_engines is not None:
        most = min(most, config.max_engines)
    elif not dedicated(config, there):
        most = min(most, 1)
    return max(config.min_engines, int(most) if most < math.inf else MOST_ENGINES)


def engines_at_once(config: Generate, there: Amounts, now: Amounts) -> int:
    """Number of engines that start together and are kept. Engines that share CPUs with the tasks that feed them start
    and end as needed."""
    if not dedicated(config, there):
        return config.min_engines
    return max(config.min_engines, int(min(num_engines(config, there), room_for_engines(config, there, now))))


def room_for_engines(config: Generate, there: Amounts, of: Amounts) -> float:
    """Engines that have a place in `of`, beside a CPU for what feeds them."""
    gpus = gpus_each(config, there)
    room = [of.get("CPU", 0) - 1]
    if gpus:
        room.append(of.get("GPU", 0) // gpus)
    if GENERATION in there:
        room.append(of.get(GENERATION, 0) // max(1, gpus))
    return min(room)


def dedicated(config: Generate, there: Amounts) -> bool:
    """Whether what an engine takes is of no use to other parts of generation."""
    return gpus_each(config, there) > 0 or GENERATION in there


def gpus_each(config: Generate, there: Amounts) -> int:
    """Number of GPUs that one engine takes in this cluster: 0 if the cluster has no GPU."""
    return config.engine.gpus if there.get("GPU") else 0
