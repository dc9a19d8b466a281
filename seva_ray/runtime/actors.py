"""What stages share that map over a pool of Ray Data actors: settings, and how a worker's error reaches the user."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from seva_ray.core.errors import UserError
from seva_ray.core.shards import in_order
from seva_ray.runtime.cli import users_line

NUM_TASKS = 20_000
"""Ray tasks that wait at once: more than any cluster has CPUs, fewer than shards of a large run."""


def rows_of(dataset: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """Makes a dataset and runs it: its rows, as they come."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a unit is one block, whatever its size
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # its wrapper would come from the worker without its cause
    made = dataset()
    # Ray Data sets its own level when a dataset is made. What it logs as an error it raises too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    yield from made.iter_rows()


@contextmanager
def told() -> Iterator[None]:
    """In a worker: an error that a user can mend is raised as its line, which Ray leaves whole on the way."""
    try:
        yield
    except Exception as error:
        line = users_line(error)
        if line is None:
            raise
        raise UserError(line) from None


def results_of(tasks: Iterable[Any]) -> Iterator[Any]:
    """Of Ray tasks, which are submitted as `tasks` is drawn from."""
    return in_order(tasks, ray.get, NUM_TASKS)
