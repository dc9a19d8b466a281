"""What bench-growth measures of each stage. Every function runs in a fresh process, on fake artifacts of its own."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.fresh import own_cluster, peak_mb
from bench.growth_rows import (
    NUM_SOURCES,
    PROMPTS,
    RESPONSES,
    SHARD_ROWS,
    TABLE,
    Asked,
    fake_pairs,
    fake_responses,
    fake_table,
    linked_responses,
)
from seva_ray.core.artifacts import Store
from seva_ray.core.shards import shards_in

NUM_WORKERS = 8
"""Number of workers that share a step."""
NUM_STEPS = 24
"""Number of steps that a training worker reads."""
IMAGE_BYTES = 100_000
NUM_AGAIN = 5
"""Number of times that a shard is paired again."""


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
    """CPU time of workers per row, in microseconds."""


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
    ahead = ReadAhead(read, at_once * NUM_WORKERS, list)
    began, num_read = time.process_time(), 0
    for step in range(min(NUM_STEPS, schedule.order.num_steps)):
        for batch in range(share // at_once):
            first = step * config.global_batch_size + batch * at_once * NUM_WORKERS
            num_read += len(ahead([{"place": first + number} for number in range(at_once)]))
    row_us = 1e6 * (time.process_time() - began) / num_read
    return peak_mb() - before, row_us


def with_images(root: str, num_rows: int) -> None:
    fake_pairs(root, num_rows, IMAGE_BYTES)


def prepare(root: str, num_rows: int) -> Grown:
    from seva_ray.sources.table import Table
    from seva_ray.stages.prepare import Prepare, prepare

    source = Table(path=f"{root}/{TABLE}", image_root=f"{root}/images")
    began = time.process_time()
    prompts = prepare(Prepare(shard_size=SHARD_ROWS), Store(root), "fake", source)
    assert prompts.counts["num_prompts"] == num_rows
    return Grown(driver_mb=peak_mb(), cpu_s=time.process_time() - began)


def pair(root: str, num_rows: int) -> Grown:
    """All of the stage, with a quota for each of the sources; and one shard again, to measure what a task takes."""
    from seva_ray.stages.pair import Pair, Sides, kept_keys, pair, pair_shard

    store = Store(root)
    prompts, chosen, rejected = (store.find(name) for name in (PROMPTS, *RESPONSES))
    config = Pair(max_per_source={f"source {number}": num_rows // 8 for number in range(NUM_SOURCES)})
    with own_cluster(num_cpus=1):
        began = time.process_time()
        pairs = pair(config, store, prompts, chosen, [rejected])
        cpu_s, driver_mb = time.process_time() - began, peak_mb()
    assert pairs.counts["verdicts"]["kept"] == NUM_SOURCES * (num_rows // 8)
    sides = Sides(prompts=prompts, chosen=chosen, rejected={"diffusion-800": rejected})
    began, shard = time.process_time(), shards_in(prompts.uri)[0]
    for _ in range(NUM_AGAIN):
        kept_keys(config, sides, shard)
        pair_shard(config, sides, pairs, {}, shard)
    row_us = 1e6 * (time.process_time() - began) / NUM_AGAIN / min(SHARD_ROWS, num_rows)
    return Grown(driver_mb=driver_mb, cpu_s=cpu_s, worker_row_us=row_us)


def evaluate(root: str, num_rows: int) -> Grown:
    """Score the responses of two models, which are here those to two views, to a benchmark of this many questions."""
    from seva_ray.stages.evaluate import compare
    from seva_ray.stages.score_files import Evaluate

    store = Store(root)
    prompts, start, policy = (store.find(name) for name in (PROMPTS, *RESPONSES))
    began = time.process_time()
    scores = compare(Evaluate(), store, Asked(num_questions=num_rows, total=num_rows), prompts, start, policy, "fake")
    assert scores.counts["flips"]["lost"] > num_rows // 2
    return Grown(driver_mb=peak_mb(), cpu_s=time.process_time() - began)


STAGES: Mapping[str, Stage] = {
    "prepare": Stage(make=fake_table, measure=prepare, driver_mb=400, row_us=15),
    "pair": Stage(make=fake_responses, measure=pair, driver_mb=400, row_us=25, worker_row_us=170),
    "evaluate": Stage(make=linked_responses, measure=evaluate, driver_mb=1_000, row_us=60),
    "train": Stage(make=fake_pairs, measure=train, driver_mb=400, row_us=40, worker_mb=300, worker_row_us=5e3),
    "train-images": Stage(
        make=with_images, measure=train, driver_mb=400, worker_mb=300, row_us=40, worker_row_us=5_000
    ),
}
