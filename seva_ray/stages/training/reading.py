"""reading: a training worker reads its pairs from their files, and prepares batches while the step before is computed.

In: rows {"place": index in the order}. Out: the batch that `collate` makes from their pairs. Threads read the pairs one
optimiser step ahead. Other threads decode their images and make the next batches. They are no processes, because two
thirds of that work hold no lock of Python's (measured in docs/LOG.md), and pixels need not be copied between threads.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seva_ray.core.errors import InputError
from seva_ray.core.storage import read_columns, read_part
from seva_ray.dpo.config import Train, swapped
from seva_ray.stages.training.scheduled import Place, Scheduled

KEPT_BYTES = 2**26
"""A worker keeps the parts of files that it read last, up to this size, so that small pairs are read only once. Arrow
takes up to twice as much memory for them."""
NUM_READERS = 4
"""Number of pairs that a worker reads at once. An object store takes about 0.1 s for each."""
BATCHES_AHEAD = 2
"""Number of batches that are made before they are drawn. The pixels of a pair take 1.35 MB at 336 px."""
NUM_COLLATORS = 1 + BATCHES_AHEAD
"""Number of threads that make batches beside a GPU. A photograph of 12 megapixels takes 0.3 s of CPU time, which is
longer than a GPU takes for its pair."""

SCORES = ("prompt_id", "ref_logps")

Pair = dict[str, Any]


class Places:
    """A data set of the rows {"place": 0}, {"place": 1} and so on. It takes no memory."""

    def __init__(self, num_rows: int):
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, place: int) -> dict[str, int]:
        return {"place": place}


class Kept:
    """The tables that were read last, up to KEPT_BYTES. Threads may share it."""

    def __init__(self) -> None:
        self.tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self.num_bytes = 0
        self.lock = threading.Lock()

    def __call__(self, uri: str, part: int, read: Callable[[], pa.Table]) -> pa.Table:
        """The table under this name. `read` is called if it is not kept; two threads may call it at the same time."""
        with self.lock:
            if (uri, part) in self.tables:
                self.tables.move_to_end((uri, part))
                return self.tables[uri, part]
        table = read()
        with self.lock:
            if (uri, part) not in self.tables:
                self.num_bytes += table.nbytes
                while self.tables and self.num_bytes > KEPT_BYTES:
                    self.num_bytes -= self.tables.popitem(last=False)[1].nbytes
                self.tables[uri, part] = table
        return table


@dataclass(frozen=True, kw_only=True)
class PairReader:
    """Reads the pairs of a schedule, each with its `weight`, `ref_logps` and, if there are any, `view_ref_logps`."""

    pairs: Scheduled
    logps_uri: str
    """The artifact of the reference log-probabilities, which has a shard for each of the pairs' shards."""
    config: Train
    kept: Kept
    view_logps_uri: str | None = None
    """The same on the view of image terms."""

    def __call__(self, index: int) -> Pair:
        """The pair at this place of the order. Raises: InputError if its log-probabilities are those of other pairs."""
        place = self.pairs.place(index)
        uri = self.pairs.files[place.file]
        part = self.kept(uri, place.part, lambda: read_part(uri, place.part))
        (pair,) = part.slice(place.row_of_part, 1).to_pylist()
        pair |= {"weight": self.pairs.order.weight(index), "ref_logps": self.logps(self.logps_uri, place, pair)}
        if self.view_logps_uri:
            pair["view_ref_logps"] = self.logps(self.view_logps_uri, place, pair)
        return swapped(pair, self.config.seed) if self.config.swap_sides else pair

    def logps(self, artifact_uri: str, place: Place, pair: Pair) -> list[float]:
        """The log-probabilities of a pair's responses."""
        uri = self.pairs.files[place.file]
        logps_uri = f"{artifact_uri}/{uri.rsplit('/', 1)[-1]}"
        scored = self.kept(logps_uri, 0, lambda: read_columns(logps_uri, SCORES)[0])
        of_pair = scored.slice(place.row_of_file, 1).to_pylist()
        if [row["prompt_id"] for row in of_pair] != [pair["prompt_id"]]:
            raise InputError(f"{logps_uri}: does not belong to {uri}; remove {artifact_uri} to score the pairs again")
        found: list[float] = of_pair[0]["ref_logps"]
        return found


class ReadAhead:
    """Rows {"place": index in the order} -> the batch of their pairs, which is made ahead. A worker's batches are
    `stride` places apart. Each of the functions `collates` makes the same of the same pairs, and only one batch at a
    time: so many batches are made at once."""

    def __init__(self, read: PairReader, stride: int, *collates: Callable[[list[Pair]], Any]):
        self.read, self.stride = read, stride
        self.free: queue.SimpleQueue[Callable[[list[Pair]], Any]] = queue.SimpleQueue()
        for collate in collates:
            self.free.put(collate)
        self.readers, self.collators = ThreadPoolExecutor(NUM_READERS), ThreadPoolExecutor(len(collates))
        self.begun: dict[tuple[int, ...], list[Future[Pair]]] = {}
        self.batches: dict[tuple[int, ...], Future[Any]] = {}

    def __call__(self, drawn: Sequence[Mapping[str, int]]) -> Any:
        places = tuple(item["place"] for item in drawn)
        if places not in self.batches:  # this is the first batch; after a restart it may be any batch
            self.begun.clear()
            self.batches.clear()
        for ahead in range(1 + self.read.config.global_batch_size // self.stride):
            due = tuple(place + ahead * self.stride for place in places)
            if due[-1] >= len(self.read.pairs.order):
                break
            if due not in self.begun and due not in self.batches:
                self.begun[due] = [self.readers.submit(self.read, place) for place in due]
            if ahead <= BATCHES_AHEAD and due not in self.batches:
                self.batches[due] = self.collators.submit(self.batch, self.begun.pop(due))
        return self.batches.pop(places).result()

    def batch(self, reading: Sequence[Future[Pair]]) -> Any:
        pairs = [pair.result() for pair in reading]
        collate = self.free.get()
        try:
            return collate(pairs)
        finally:
            self.free.put(collate)
