"""scheduled: the pairs that training sees, step by step, as places in the pairs' files.

The driver orders pairs by their ids and lengths, file by file, and keeps 4 bytes for each time that a pair is seen. A
worker gets this order, and reads a pair and its reference log-probabilities from their files when they are due. So the
memory of both hardly grows with the number of pairs, and no column of all images or texts is ever put together.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from seva_ray.core.artifacts import Artifact
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_columns
from seva_ray.dpo.config import Train
from seva_ray.dpo.order import Schedule, choose, lengths_of, schedule
from seva_ray.pairs.files import RANK, files_of

LENGTHS = ("question", "chosen_token_ids", "rejected.list.element.token_ids")
"""The columns by which a pair's length is known."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place at which a pair is stored."""

    file: int
    part: int
    """The part (row group) of the file."""
    row_of_part: int
    row_of_file: int


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """Where to find the pairs, in the order of training."""

    files: Sequence[str]
    """URIs of the pairs' shards."""
    starts: np.ndarray
    """The number of the first pair of each part (row group) of all files. Pairs are numbered in the files' order."""
    first_parts: np.ndarray
    """The index in `starts` of the first part of each file."""
    order: Schedule
    num_pairs: int
    """The number of different pairs in the order."""

    def place(self, index: int) -> Place:
        """The place of the pair that is number `index` in the order."""
        number = int(self.order.order[index])
        part = int(np.searchsorted(self.starts, number, "right")) - 1
        file = int(np.searchsorted(self.first_parts, part, "right")) - 1
        first = int(self.first_parts[file])
        return Place(
            file=file,
            part=part - first,
            row_of_part=number - int(self.starts[part]),
            row_of_file=number - int(self.starts[first]),
        )


def scheduled(config: Train, pairs: Artifact) -> Scheduled:
    """The pairs that `config` trains on."""
    files = files_of(pairs)
    chosen = None
    if config.num_pairs is not None:
        chosen = choose(read_each(ids_of, files), config)
    sizes: list[list[int]] = []

    def outlines() -> Iterator[tuple[list[str], np.ndarray, np.ndarray | None]]:
        name = "image_id" if config.group_by_image else "prompt_id"
        for ids, lengths, ranks, of_parts in read_each(partial(outline_of, name=name), files):
            sizes.append(of_parts)
            yield ids, lengths, ranks

    order = schedule(outlines(), config, chosen)
    release_memory()  # soon the order is copied for the workers
    of_parts = np.concatenate([np.array(of_file, np.int64) for of_file in sizes])
    num_parts = np.array([len(of_file) for of_file in sizes], np.int64)
    return Scheduled(
        files=files,
        starts=np.cumsum(of_parts) - of_parts,
        first_parts=np.cumsum(num_parts) - num_parts,
        order=order,
        num_pairs=int(of_parts.sum()) if chosen is None else int(chosen.sum()),
    )


def release_memory() -> None:
    """Give memory that is free back to the system. glibc keeps what each reading thread has freed, and Arrow too."""
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def ids_of(uri: str) -> list[str]:
    return read_columns(uri, ["prompt_id"])[0]["prompt_id"].to_pylist()


def outline_of(uri: str, name: str = "prompt_id") -> tuple[list[str], np.ndarray, np.ndarray | None, list[int]]:
    """The pairs' ids, lengths and ranks (None if they have none), and the number of rows in each part of the file.
    `name`: the column of the ids."""
    table, sizes = read_columns(uri, [name, RANK, *LENGTHS])
    ranks = table[RANK].to_numpy() if RANK in table.column_names else None
    return table[name].to_pylist(), lengths_of(table), ranks, sizes
