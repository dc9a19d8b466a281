"""probe: a few rows of a run's prompts through its real engine -> the artifact `probes/<name>`: its measured speeds.

One engine runs units of the generate stage, in every view, in shards of the run's own size or less. The measurements
hold only for this machine and these settings, so the recipe includes every setting of generation.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.patience import patient
from seva_ray.core.shards import read_each
from seva_ray.core.storage import NUM_READERS, locate, read_table, write_table
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import Counts, read_counts
from seva_ray.engines.encoded import num_image_bytes
from seva_ray.engines.units import Unit
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import say
from seva_ray.stages.engine_pool import by_shard, commits
from seva_ray.stages.pair import ANY, Pair, Sides, pair_shard
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.unit_worker import encode_units, task_of
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A measurement of speed before the run."""

    name: str = ""
    """Name of the probe. A probe that already exists is not repeated. If the name is empty, there is no probe."""
    num_rows: int = 64
    """Number of prompts, each answered in every view. vLLM reaches a run's speed only if they fill its batch twice."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_rows")


def probe(
    config: Probe,
    generation: Generate,
    pairs: Pair,
    store: Store,
    model: Model,
    prompts: Artifact,
    views: Sequence[str],
) -> Artifact:
    """Run the probe. Its counts are named after the fields of the planner's Rates and Sizes. The first view is the
    chosen one."""
    alone = replace(generation, min_engines=1, max_engines=1)
    recipe = {
        "model": model.fingerprint,
        "engine": type(generation.engine).__name__,
        "generate": asdict(alone),  # with the execution fields, which change the speed
        "pair": pairs,
        "views": views,
        "num_rows": config.num_rows,
    }
    artifact = store.open(f"probes/{config.name}", config=recipe, inputs=[prompts])
    if artifact.complete:
        return artifact
    artifact = artifact.begin()
    shards = copy_rows(prompts, artifact, config.num_rows)
    units = units_of(config, model, prompts, artifact, views, shards, alone.system)
    say(f"probe {config.name}: up to {config.num_rows:,} prompts, in {len(views)} views")
    join()
    asked = time.time()
    try:
        done = list(commits(alone, by_shard(units)))
    except Exception:
        artifact.discard()
        raise
    num_rows = answered(done)
    speeds = generating(done, asked) | encoding(alone, units, num_rows) | sizes(units, num_rows) | reading(units)
    return artifact.finish({"num_rows": num_rows} | speeds | pairing(pairs, artifact, views, shards))


def units_of(
    config: Probe,
    model: Model,
    prompts: Artifact,
    artifact: Artifact,
    views: Sequence[str],
    shards: Sequence[str],
    system: str,
) -> list[Unit]:
    return [
        Unit(
            model=model.name,
            model_directory=model.directory,
            prompts_uri=artifact.path("prompts", shard),
            responses_uri=artifact.path("responses", view, shard),
            view=view,
            system=system,
            image_root=prompts.counts["image_root"],
            num_rows=config.num_rows,
        )
        for view in views
        for shard in shards
    ]


def generating(done: Sequence[Mapping[str, Any]], asked: float) -> dict[str, float]:
    """How long the engine took to start, and how fast it answered. `asked`: when it was requested, Unix time in s."""
    began, ended = min(row["began_at"] for row in done), max(row["committed_at"] for row in done)
    return {"start_s": round(float(began - asked), 3), "rows_per_s": round(float(answered(done) / (ended - began)), 3)}


def answered(done: Sequence[Mapping[str, Any]]) -> int:
    """The number of responses in these commits."""
    return sum(Counts.of(row["counts"]).numbers["num_responses"] for row in done)


def sizes(units: Sequence[Unit], num_rows: int) -> dict[str, float]:
    """How many bytes of files a row takes."""
    return {
        "prompt_bytes": round(sum(size(unit.prompts_uri) for unit in units) / num_rows, 1),
        "response_bytes": round(sum(size(unit.responses_uri) for unit in units) / num_rows, 1),
    }


def copy_rows(prompts: Artifact, artifact: Artifact, num_rows: int) -> list[str]:
    """Copy the first rows of the prompts into shards of the probe. Return the names of the shards."""
    shards = []
    for shard in shards_of(prompts):
        if num_rows <= 0:
            break
        rows = read_table(prompts.path(shard)).slice(0, num_rows)
        write_table(artifact.path("prompts", shard), rows)
        shards.append(shard)
        num_rows -= len(rows)
    return shards


def encoding(config: Generate, units: Sequence[Unit], num_rows: int) -> dict[str, float]:
    """How fast this process encodes the units, and how many bytes of pixels a row sends to the engine."""
    batches = [{"units": [task_of(of_shard)["units"]]} for of_shard in by_shard(units)]
    encode_units(batches[0], config)  # loads the processor
    began = time.perf_counter()
    made = [encode_units(batch, config) for batch in batches]
    seconds = time.perf_counter() - began
    num_bytes = sum(num_image_bytes(of_shard["header"][0]) for of_shard in made)
    return {"encode_rows_per_s": round(num_rows / seconds, 3), "pixel_bytes": round(num_bytes / num_rows, 1)}


def reading(units: Sequence[Unit]) -> dict[str, float]:
    """How fast this process reads response files, several at once, as the driver does at the end of generation."""
    files = [unit.responses_uri for unit in units] * NUM_READERS
    began = time.perf_counter()
    deque(read_each(lambda uri: read_counts(uri, CLEAN), files), maxlen=0)
    return {"read_files_per_s": round(len(files) / (time.perf_counter() - began), 1)}


def pairing(config: Pair, artifact: Artifact, views: Sequence[str], shards: Sequence[str]) -> dict[str, float]:
    """How fast one CPU makes pairs, including Ray's own time, and the share of prompts that are kept."""

    def part(*names: str) -> Artifact:
        return replace(artifact, uri=artifact.path(*names))

    import ray

    chosen, *rejected = views
    task = ray.remote(pair_shard)
    sides = Sides(
        prompts=part("prompts"),
        chosen=part("responses", chosen),
        rejected={view: part("responses", view) for view in rejected},
    )
    for _ in range(2):  # the first time includes the start of the worker process
        began = time.perf_counter()
        counts = [ray.get(task.remote(config, sides, part("pairs"), {}, shard))[0][ANY] for shard in shards]
        seconds = time.perf_counter() - began
    num_prompts = sum(of_shard.total() for of_shard in counts)
    kept = sum(of_shard["kept"] for of_shard in counts)
    return {
        "pair_rows_per_s": round(num_prompts * len(rejected) / seconds, 1),
        "kept_share": round(kept / num_prompts, 4),
    }


@patient
def size(uri: str) -> int:
    filesystem, path = locate(uri)
    return filesystem.size(path)
