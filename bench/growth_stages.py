"""What bench-growth measures of each stage. Every function runs in a fresh process, on fake artifacts of its own."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.fresh import own_cluster, peak_mb
from bench.growth_rows import fake_pairs
from seva_ray.core.artifacts import Store

NUM_WORKERS = 8
"""A worker's share of a step is one in so many."""
NUM_STEPS = 24
"""Number of steps that a training worker reads."""
IMAGE_BYTES = 100_000


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What one stage took."""

    driver_mb: float
    """Peak memory of the driver's process, libraries included."""
    cpu_s: float
    """CPU time of the driver for the stage, in seconds."""
    worker_mb: float | None = None
    """Peak memory of a worker over what it had after its imports."""
    worker_row_us: float | None = None
    """CPU time of workers for a row, in microseconds."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a stage is measured, and its limits."""

    make: Callable[[str, int], Any]
    """Writes the fake artifacts of a number of rows below a directory."""
    measure: Callable[[str, int], Grown]
    driver_mb: float
    row_us: float
    """CPU time of the driver for a row, in microseconds."""
    worker_mb: float | None = None
    worker_row_us: float | None = None


def train(root: str, num_rows: int) -> Grown:
    """Order the pairs and hand the order to a worker, as the driver does; read a worker's share of some steps."""
    import ray

    from seva_ray.dpo.config import Train
    from seva_ray.stages.training.scheduled import scheduled

    store, config = Store(root), Train()
    pairs, logps = store.open("pairs/fake/fake/fake", config={}), store.open("logps/fake/fake/fake/float32", config={})
    with own_cluster(num_cpus=1):
        began = time.process_time()
        schedule = scheduled(config, pairs)
        job = ray.put([schedule])
        cpu_s = time.process_time() - began
        assert schedule.num_pairs == num_rows
        worker_mb, worker_row_us = ray.get(ray.remote(read_share).remote({"job": job}, logps.uri))
        return Grown(driver_mb=peak_mb(), cpu_s=cpu_s, worker_mb=worker_mb, worker_row_us=worker_row_us)


def read_share(given: Mapping[str, Any], logps_uri: str) -> tuple[float, float]:
    """MB of a worker that reads its share of the first steps, and its CPU microseconds for a pair."""
    import ray

    from seva_ray.dpo.config import Train
    from seva_ray.stages.training.reading import Kept, PairReader, ReadAhead

    gc.collect()
    before, config, at_once = peak_mb(), Train(), 2
    (schedule,) = ray.get(given["job"])
    read = PairReader(pairs=schedule, logps_uri=logps_uri, config=config, kept=Kept())
    share = config.global_batch_size // NUM_WORKERS
    ahead = ReadAhead(read, stride=at_once * NUM_WORKERS, collate=list)
    began, num_read = time.process_time(), 0
    for step in range(min(NUM_STEPS, schedule.order.num_steps)):
        for batch in range(share // at_once):
            first = step * config.global_batch_size + batch * at_once * NUM_WORKERS
            num_read += len(ahead([{"place": first + number} for number in range(at_once)]))
    row_us = 1e6 * (time.process_time() - began) / num_read
    return peak_mb() - before, row_us


def with_images(root: str, num_rows: int) -> None:
    fake_pairs(root, num_rows, IMAGE_BYTES)


STAGES: Mapping[str, Stage] = {
    "train": Stage(make=fake_pairs, measure=train, driver_mb=400, row_us=40, worker_mb=300, worker_row_us=5e3),
    "train-images": Stage(
        make=with_images, measure=train, driver_mb=400, worker_mb=300, row_us=40, worker_row_us=5_000
    ),
}
