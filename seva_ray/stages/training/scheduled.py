"""scheduled: pairs in the order of training, which workers read from the pairs' files when they are due.

The driver orders pairs by what is small of them, their ids and lengths, and never reads an image. Workers are given
where each pair is, and hold a few of them at a time. So training takes the same memory for any number of pairs, but for
some bytes of each, and no column of all pairs' images or texts is ever put together: Arrow cannot take rows from one
of more than 2 GiB.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from seva_ray.core.artifacts import Artifact
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_columns, read_part
from seva_ray.dpo.config import Train, lengths_of, schedule, swapped
from seva_ray.pairs.files import files_of
from seva_ray.stages.training.reference import with_reference

KEPT_BYTES = 2**27
"""Of the parts of files that a worker has read last and keeps, so that small pairs are read once. Arrow takes up to
twice the memory of what is kept."""


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """Where each pair is that is trained on, in the order of training: `global_batch_size` of them for each step."""

    files: Sequence[str]
    """URIs of the pairs' shards."""
    rows: pa.Table
    """Columns `file` (its place in `files`), `part` (row group of the file) and `row` (of the part), int32; `ref_logps`
    and `weight`."""

    @property
    def num_pairs(self) -> int:
        """How many different ones."""
        return len(self.rows.group_by(["file", "part", "row"]).aggregate([]))


def scheduled(config: Train, pairs: Artifact, logps: Artifact) -> Scheduled:
    """The pairs that `config` trains on, with their reference log-probabilities."""
    files = files_of(pairs)
    outlines = [
        outline.append_column("file", pa.array(np.full(len(outline), number, np.int32)))
        for number, outline in enumerate(read_each(outline_of, files))
    ]
    every = with_reference(pa.concat_tables(outlines), logps)
    places, weights = schedule(every["prompt_id"].to_pylist(), every["length"].to_numpy(), config)
    rows = every.select(["file", "part", "row", "ref_logps"]).combine_chunks().take(pa.array(places))
    return Scheduled(files=files, rows=rows.append_column("weight", pa.array(weights)))


def outline_of(uri: str) -> pa.Table:
    """Columns `prompt_id`, `length`, `part` and `row` of the pairs of a file."""
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
    """Rows {"place": number of a row of the schedule} -> the batch that `collate` makes of their pairs.

    A worker's batches are `stride` places apart. It draws all batches of a step at once, so that a thread reads the
    next step's pairs while a step is computed.
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
            self.begun.clear()  # the first batch: after a restart it may be any
        for ahead in range(1 + self.config.global_batch_size // self.stride):
            due = tuple(place + ahead * self.stride for place in places)
            if due not in self.begun and due[-1] < len(self.pairs.rows):
                self.begun[due] = self.reader.submit(self.read, due)
        return self.collate(self.begun.pop(places).result())

    def read(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The pairs at these places of the schedule, with their `ref_logps` and `weight`."""
        return [self.pair(**self.pairs.rows.slice(place, 1).to_pylist()[0]) for place in places]

    def pair(self, file: int, part: int, row: int, **columns: Any) -> dict[str, Any]:
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
