"""shards: work on many files of an artifact. Several, but not all, are processed at once; results come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from seva_ray.core.storage import NUM_READERS, names_in

Handle = TypeVar("Handle")
Item = TypeVar("Item")
Result = TypeVar("Result")


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.parquet"


def shards_in(uri: str) -> list[str]:
    """Names of the shards in a directory, by number. Half-written files of a killed process are left out."""
    names = (name for name in names_in(uri) if name.startswith("shard-") and name.endswith(".parquet"))
    return sorted(names, key=lambda name: (len(name), name))


def read_each(read: Callable[[Item], Result], uris: Sequence[Item]) -> Iterator[Result]:
    """The results of `read` for each file, in order."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        yield from in_order((readers.submit(read, uri) for uri in uris), Future.result, 2 * NUM_READERS)


def in_order(begun: Iterable[Handle], result: Callable[[Handle], Result], limit: int) -> Iterator[Result]:
    """Yield results in order. At first `limit` items are drawn from `begun`, then one more for each result."""
    begun = iter(begun)
    waiting = deque(islice(begun, limit))
    while waiting:
        yield result(waiting.popleft())
        waiting.extend(islice(begun, 1))
