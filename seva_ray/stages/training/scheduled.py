"""scheduled: the pairs that training sees, step by step, as places in the pairs' files.

The driver orders pairs by their ids and lengths, and never reads an image. A worker is given the place of every pair,
and reads a pair when it is due. So the memory of both hardly grows with the number of pairs, and no column of all
images or texts is ever put together: Arrow takes no rows from a binary or string column of more than 2 GiB.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from seva_ray.core.artifacts import Artifact
from seva_ray.core.shards import read_each, shards_in
from seva_ray.core.storage import read_columns, read_part, read_table
from seva_ray.dpo.config import Train, lengths_of, schedule, swapped
from seva_ray.pairs.files import files_of

KEPT_BYTES = 2**27
"""A worker keeps the parts of files that it read last, up to this size, so that small pairs are read only once. Arrow
takes up to twice as much memory for them."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """Where to find the pairs, in the order of training. Each step sees the next `global_batch_size` of them."""

    files: Sequence[str]
    """URIs of the pairs' shards."""
    rows: pa.Table
    """A pair is row `row` of the part (row group) `part` of `files[file]`, and number `number` of all pairs in the
    files' order; these columns are integers. The pair's `weight` goes with it, and its `ref_logps` once they are
    known."""
    ids: str
    """A digest of the prompt_ids of all pairs in the files' order."""

    @property
    def num_pairs(self) -> int:
        """The number of different pairs among them."""
        return len(self.rows.group_by(["file", "part", "row"]).aggregate([]))


def scheduled(config: Train, pairs: Artifact) -> Scheduled:
    """The pairs that `config` trains on, without their reference log-probabilities."""
    files = files_of(pairs)
    outlines = [
        outline.append_column("file", pa.array(np.full(len(outline), number, np.int32)))
        for number, outline in enumerate(read_each(outline_of, files))
    ]
    every = pa.concat_tables(outlines)
    places, weights = schedule(every["prompt_id"].to_pylist(), every["length"].to_numpy(), config)
    every = every.append_column("number", pa.array(range(len(every))))
    rows = every.select(["file", "part", "row", "number"]).combine_chunks().take(pa.array(places))
    rows = rows.append_column("weight", pa.array(weights))
    return Scheduled(files=files, rows=rows, ids=digest_of(every["prompt_id"]))


def with_reference(pairs: Scheduled, uri: str) -> Scheduled:
    """The pairs with the reference log-probabilities in the shards at `uri`."""
    scored = pa.concat_tables(read_each(read_table, [f"{uri}/{shard}" for shard in shards_in(uri)]))
    assert digest_of(scored["prompt_id"]) == pairs.ids, f"{uri} is not of these pairs"
    of_rows = scored["ref_logps"].combine_chunks().take(pairs.rows["number"].combine_chunks())
    return replace(pairs, rows=pairs.rows.append_column("ref_logps", of_rows))


def digest_of(ids: pa.ChunkedArray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for chunk in ids.chunks:
        digest.update("".join(f"{name}\n" for name in chunk.to_pylist()).encode())
    return digest.hexdigest()


def outline_of(uri: str) -> pa.Table:
    """Columns `prompt_id` and `length`, by which pairs are ordered, and `part` and `row`, their places in the file."""
    table, sizes = read_columns(uri, ["prompt_id", "question", "chosen_token_ids", "rejected"])
    starts = np.cumsum(sizes) - sizes
    return pa.table(
        {
            "prompt_id": table["prompt_id"],
            "length": pa.array(lengths_of(table), pa.int64()),
            "part": pa.array(np.repeat(np.arange(len(sizes)), sizes), pa.int32()),
            "row": pa.array(np.arange(len(table)) - np.repeat(starts, sizes), pa.int32()),
        }
    )


class ScheduledCollator:
    """Rows {"place": index of a row of the schedule} -> the batch that `collate` makes from their pairs.

    A worker's batches are `stride` rows apart. A thread reads the pairs one step ahead, while the current step is
    computed.
    """

    def __init__(self, pairs: Scheduled, config: Train, stride: int, collate: Callable[[list[dict[str, Any]]], Any]):
        self.pairs, self.config, self.stride, self.collate = pairs, config, stride, collate
        self.reader = ThreadPoolExecutor(1)
        self.begun: dict[tuple[int, ...], Future[list[dict[str, Any]]]] = {}
        self.parts: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self.num_bytes = 0

    def __call__(self, drawn: Sequence[Mapping[str, int]]) -> Any:
        places = tuple(item["place"] for item in drawn)
        if places not in self.begun:
            self.begun.clear()  # this is the first batch; after a restart it may be any batch
        for ahead in range(1 + self.config.global_batch_size // self.stride):
            due = tuple(place + ahead * self.stride for place in places)
            if due not in self.begun and due[-1] < len(self.pairs.rows):
                self.begun[due] = self.reader.submit(self.read, due)
        return self.collate(self.begun.pop(places).result())

    def read(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The pairs in these rows of the schedule, with their `ref_logps` and `weight`."""
        return [self.pair(**self.pairs.rows.slice(place, 1).to_pylist()[0]) for place in places]

    def pair(self, file: int, part: int, row: int, number: int, **columns: Any) -> dict[str, Any]:
        (pair,) = self.part(file, part).slice(row, 1).to_pylist()
        pair |= columns
        return swapped(pair, self.config.seed) if self.config.swap_sides else pair

    def part(self, file: int, part: int) -> pa.Table:
        if (file, part) not in self.parts:
            table = read_part(self.pairs.files[file], part)
            self.num_bytes += table.nbytes
            while self.parts and self.num_bytes > KEPT_BYTES:
                self.num_bytes -= self.parts.popitem(last=False)[1].nbytes
            self.parts[file, part] = table
        self.parts.move_to_end((file, part))
        return self.parts[file, part]
