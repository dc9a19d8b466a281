"""A pool of actors that hold a model and work on shards of rows: Ray Data gives each actor one shard at a time.

The stages `regenerate`, `contrast` and `margins` run in such a pool. An actor commits each shard as one file, so a
restart needs only those that are missing.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import UserError
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
from seva_ray.stages.engine_watch import MOST_POOLS, given_up, loaded, result_of, silence_within


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

    @property
    def computed_at(self) -> float:
        """When a batch of rows was last finished, on the monotonic clock, in s; 0 if none was."""
        ...

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
    memory = loaded_memory(num_weights) * GIB if num_weights and not has_gpus() else 0.0
    make_room(Need(f"workers of the stage {stage}", most, need), most * memory)
    if config.memory_check:
        most = number_held("workers", most, memory / GIB, name)
    progress, num_rows = Progress(stage, len(missing), "shards"), 0
    for row in committed(work, missing, need, most, stage, (config.load_s, config.silent_s)):
        num_rows += row["num_rows"]
        progress.add(1, note=f", {num_rows:,} rows")


def committed(
    work: Work, shards: Sequence[str], need: dict[str, float], most: int, stage: str, limits_s: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """The row that ShardWorker returns for each shard. If a worker computes nothing any more, new ones do the shards
    that are left. `limits_s`: the longest times to load the model and to finish a batch, in seconds.

    Raises: UserError if a worker of the last pool computes nothing either.
    """
    left = list(shards)
    for number in range(MOST_POOLS):
        try:
            for row in pool(work, list(left), need, most, stage, limits_s):
                left.remove(str(row["shard"]))
                yield row
            return
        except Exception as error:
            if (silence := silence_within(error)) is None:
                raise
            if number + 1 == MOST_POOLS:
                raise UserError(
                    given_up(stage, silence, number, f"the first shard that is left is {left[0]}")
                ) from None
            say(f"{stage}: {silence}; new workers do the rest")


def pool(
    work: Work, shards: Sequence[str], need: dict[str, float], most: int, stage: str, limits_s: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """The same of one pool of workers. Raises: WorkerSilent, in an error of Ray's."""
    import ray.data

    items = [{"shard": shard} for shard in shards]
    return rows_of(
        lambda: ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardWorker,
            batch_size=1,
            **options(need),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, most)),
            fn_constructor_args=(work, stage, limits_s),
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
    def __init__(self, work: Work, stage: str, limits_s: tuple[float, float]):
        load_s, self.silent_s = limits_s
        self.who = f"a worker of {stage}"
        self.worker = loaded(work.load, load_s, self.who)
        self.caller = ThreadPoolExecutor(1)

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shard = str(batch["shard"][0])
        num_rows = result_of(
            self.caller.submit(self.worker.commit, shard),
            self.silent_s,
            lambda: self.worker.computed_at,
            lambda on, time: f"{self.who}{on} has finished no batch for {time}, in the shard {shard}",
        )
        return {"shard": np.array([shard]), "num_rows": np.array([num_rows])}
