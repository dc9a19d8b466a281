"""Sorting more keys than should lie in memory: by way of temporary files, of which one after the other is sorted."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import numpy as np

NUM_BUCKETS = 64
"""Number of parts that keys are sorted in. A key belongs to a part by its first bits."""
SPOOLED_BYTES = 2**18
"""Largest size of a part that is held in memory before it is moved to a file. 16 MiB in all are 700 thousand keys."""
KEYED = np.dtype([("key", "S16"), ("number", "<u8")])


class Sorter:
    """Sorts numbers by their keys; see `sorter`."""

    def __init__(self, buckets: Sequence[IO[bytes]]):
        self.buckets, self.total = buckets, 0

    def add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """`keys`: (N,) of S16; `numbers`: (N,), at least 0."""
        keyed = np.empty(len(keys), KEYED)
        keyed["key"], keyed["number"] = keys, numbers
        buckets = np.ascontiguousarray(keys).view(np.uint8)[::16] // (256 // NUM_BUCKETS)
        for bucket in np.unique(buckets).tolist():
            self.buckets[bucket].write(keyed[buckets == bucket].tobytes())
        self.total += len(keys)

    def fill(self, numbers: np.ndarray) -> None:
        """Write all numbers into `numbers`, (total,), smallest key first; numbers of equal keys as they were added."""
        end = 0
        for file in self.buckets:
            file.seek(0)
            keyed = np.frombuffer(file.read(), KEYED)
            start, end = end, end + len(keyed)
            numbers[start:end] = keyed["number"][np.argsort(keyed["key"], kind="stable")]

    def key_at(self, place: int) -> bytes:
        """The key that is number `place`, from 0, among all keys in their order."""
        for file in self.buckets:
            file.seek(0)
            keys = np.frombuffer(file.read(), KEYED)["key"]
            if place < len(keys):
                return np.sort(keys)[place : place + 1].tobytes()
            place -= len(keys)
        raise IndexError(f"there are only {self.total} keys")

    def has_equal_keys(self) -> bool:
        """Whether a key was added twice."""
        for file in self.buckets:
            file.seek(0)
            keys = np.sort(np.frombuffer(file.read(), KEYED)["key"])
            if (keys[1:] == keys[:-1]).any():
                return True
        return False


@contextmanager
def sorter(share: int = 1) -> Iterator[Sorter]:
    """A Sorter with its temporary files. It takes 24 bytes of disk for each number if there are many. `share`: how many
    sorters there are at the same time, which share the memory."""
    size = SPOOLED_BYTES // share
    with ExitStack() as stack:
        yield Sorter([stack.enter_context(tempfile.SpooledTemporaryFile(size)) for _ in range(NUM_BUCKETS)])
