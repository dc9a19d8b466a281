"""A pool of actors that hold a model and work on shards of rows: Ray Data gives each actor one shard at a time.

The stages `regenerate`, `contrast` and `margins` run in such a pool. An actor commits each shard as one file, so a
restart needs only those that are missing.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from seva_ray.core.artifacts import Artifact
from seva_ray.core.verification import whole_shards
from seva_ray.engines.config import Generate
from seva_ray.planning.memory import GIB, loaded_memory
from seva_ray.runtime.actors import rows_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.kept_engines import make_room
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.resources import GENERATION, Need, capacity, check_places, has_gpus, kind, options
from seva_ray.runtime.sizing import num_engines
from seva_ray.stages.cpu_memory import number_held


class Work(Protocol):
    """A frozen dataclass that says what is done with a shard."""

    def load(self) -> "Worker":
        """Load the model in this process."""
        ...

    def num_weights(self) -> int:
        """How many numbers the model has; 0 if none is loaded, so that no GPU is needed."""
        ...


class Worker(Protocol):
    """A loaded model."""

    def commit(self, shard: str) -> int:
        """Do the work of one shard and write its file. Returns the number of rows."""
        ...


def run_shards(name: str, config: Generate, work: Work, artifact: Artifact, rows: str, shards: Sequence[str]) -> None:
    """Do the shards that the artifact has no file of. `name`: the stage and the view, for the terminal. `rows`: the URI
    of the shards of rows that are worked on.

    Raises: InputError if the cluster has no room for one worker.
    """
    done = whole_shards(artifact.uri, rows) if artifact.begun else set()
    missing = [shard for shard in shards if shard not in done]
    if not missing:
        return
    join()
    num_weights, stage = work.num_weights(), name.split()[0]
    need = worker_need() if num_weights else {"CPU": 1.0}
    check_places(Need(f"a worker of the stage {stage}", 1, need))
    say(f"{name}: {len(missing):,} shards to do")
    most = min(config.max_engines or num_engines(config, capacity()), len(missing))
    loaded = loaded_memory(num_weights) * GIB if num_weights and not has_gpus() else 0.0
    make_room(Need(f"workers of the stage {stage}", most, need), most * loaded)
    if config.memory_check:
        most = number_held("workers", most, loaded / GIB, name)
    progress, num_rows = Progress(stage, len(missing), "shards"), 0
    for row in committed(work, missing, need, most, stage):
        num_rows += row["num_rows"]
        progress.add(1, note=f", {num_rows:,} rows")


def committed(work: Work, shards: Sequence[str], need: dict[str, float], most: int, stage: str) -> Any:
    """The row that ShardWorker returns for each shard."""
    import ray.data

    items = [{"shard": shard} for shard in shards]
    return rows_of(
        lambda: ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardWorker,
            batch_size=1,
            **options(need),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, most)),
            fn_constructor_args=(work,),
        ),
        first=f"{stage}: waiting for a worker to load the model and do the first shard",
        others=f"{stage}: waiting for the next shard",
    )


def worker_need() -> dict[str, float]:
    """The resources that one worker takes of its node."""
    gpus = 1 if has_gpus() else 0
    return ({"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}) | kind(GENERATION, max(1, gpus))


class ShardWorker:
    """The actor of Ray Data that holds the model."""

    @told()
    def __init__(self, work: Work):
        self.worker = work.load()

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"num_rows": np.array([self.worker.commit(str(batch["shard"][0]))])}
