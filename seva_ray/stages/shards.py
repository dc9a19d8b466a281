"""shards: work on many files of an artifact. Several are under way at once, never all, and results come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import ray

from seva_ray.storage import NUM_READERS, names_in

NUM_TASKS = 20_000
"""Ray tasks that wait at once: more than any cluster has CPUs, fewer than shards of a large run."""

Handle = TypeVar("Handle")
Result = TypeVar("Result")


def shards_in(uri: str) -> list[str]:
    """Names of the shards in a directory, by number. Half-written files of a killed process are none."""
    names = (name for name in names_in(uri) if name.startswith("shard-") and name.endswith(".parquet"))
    return sorted(names, key=lambda name: (len(name), name))


def read_each(read: Callable[[str], Result], uris: Sequence[str]) -> Iterator[Result]:
    """`read` of each file, in order."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        yield from in_order((readers.submit(read, uri) for uri in uris), Future.result, 2 * NUM_READERS)


def results_of(tasks: Iterable[Any]) -> Iterator[Any]:
    """Of Ray tasks, which are submitted as `tasks` is drawn from."""
    return in_order(tasks, ray.get, NUM_TASKS)


def in_order(begun: Iterable[Handle], result: Callable[[Handle], Result], limit: int) -> Iterator[Result]:
    """Draws `limit` from `begun`, and one more for each result that is taken."""
    begun = iter(begun)
    waiting = deque(islice(begun, limit))
    while waiting:
        yield result(waiting.popleft())
        waiting.extend(islice(begun, 1))
