"""Shared by stages that map over a pool of Ray Data actors: settings, and how a worker's error reaches the user."""

import gc
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from seva_ray.core.errors import UserError
from seva_ray.core.shards import in_order
from seva_ray.runtime.cli import users_line
from seva_ray.runtime.cluster import before_shutdown
from seva_ray.runtime.heartbeat import awaited
from seva_ray.runtime.resources import is_one_node

NUM_TASKS = 20_000
"""Largest number of Ray tasks that are submitted at once. It is above the number of CPUs of any cluster, and below the
number of shards of a large run."""

NEVER = -1.0
"""A use that is below that of an actor without work: Ray Data ends some actors if their use is not above its limit."""


def rows_of(
    dataset: Callable[[], Any], first: str, others: str, one_by_one: bool = False
) -> Generator[dict[str, Any], None, None]:
    """Make a dataset, run it, and yield its rows as they arrive. Until the first row is there, the heartbeat says
    `first`; then it says `others`. `one_by_one`: a task that makes several rows hands over each as soon as it is made;
    no row has to wait for the next one."""
    import ray.data

    # The error of an earlier job of this process and its frames refer to each other. Until they are collected they may
    # keep that job's actors, whose CPUs the new job then waits for.
    gc.collect()
    context = ray.data.DataContext.get_current()
    # A unit stays one block, whatever its size. With the limit of a byte, each row is a block.
    context.target_max_block_size = 1 if one_by_one else None
    # Engines wait as long as a training takes. By itself Ray Data gives up after half an hour without a row.
    context.execution_no_progress_timeout_s = -1
    # On a single machine nothing else can use the place of an engine that waits, and the job may need it again.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = (
        NEVER if is_one_node() else ray.data.context.DEFAULT_ACTOR_POOL_UTIL_DOWNSCALING_THRESHOLD
    )
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # Ray's wrapper would arrive without the cause of the error
    created = dataset()
    # Ray Data sets its own log level when a dataset is made. It also raises every error that it logs.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    blocks = iter(created.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    before_shutdown.append(blocks.close)
    try:
        yield from awaited((row for block in blocks for row in block.to_pylist()), first, others)
    finally:
        before_shutdown.remove(blocks.close)
        blocks.close()


@contextmanager
def told() -> Iterator[None]:
    """In a worker, raise an error that the user can fix as a UserError with one line, which Ray passes on unchanged."""
    try:
        yield
    except Exception as error:
        line = users_line(error)
        if line is None:
            raise
        raise UserError(line) from None


def results_of(function: Callable[..., Any], arguments: Iterable[Sequence[Any]], what: str) -> Iterator[Any]:
    """The results of the function for each of the arguments, in order. Each call is a Ray task. Drawing the next item
    from `arguments` submits the next task. The heartbeat says `what` while a result is awaited."""
    import ray

    task = ray.remote(function)
    return awaited(in_order((task.remote(*given) for given in arguments), ray.get, NUM_TASKS), what, what)
