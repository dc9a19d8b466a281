"""Parts of a large table: Ray tasks write the shards of prompts, one task for the shards that begin in one file.

Shards have the same rows as if one process had read the table in its order, and the same ids. A job that is killed and
started again makes only the shards that are missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from seva_ray.core.artifacts import Artifact
from seva_ray.core.reasons import Reasons
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import exists, read_table, write_table
from seva_ray.core.verification import num_rows
from seva_ray.runtime.actors import results_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.resources import TASK, Need, check_places
from seva_ray.stages.image_digests import sample_of


@runtime_checkable
class HasFiles(Protocol):
    """A source whose files several processes can read."""

    @property
    def image_root(self) -> str | None: ...

    def prompts(self) -> Iterator[Prompt]: ...

    def rows_by_file(self) -> list[int] | None: ...

    def prompts_from(self, file: int) -> Iterator[Prompt]: ...

    def image_paths(self, file: int | None = None) -> Iterator[str | None]: ...


@dataclass(frozen=True, kw_only=True)
class FileShards:
    """The shards that begin in one file."""

    file: int
    skipped: int
    """Number of rows at the beginning of the file that belong to a shard of an earlier file."""
    first_shard: int
    rows: Sequence[int]
    """Number of rows of each shard. The last one may go on in the files after this one."""


def parts_of(rows_by_file: Sequence[int], shard_size: int) -> list[FileShards]:
    total, start, parts = sum(rows_by_file), 0, []
    for file, number in enumerate(rows_by_file):
        first, end = -(-start // shard_size), -(-(start + number) // shard_size)
        if first < end:
            rows = [min(shard_size, total - shard * shard_size) for shard in range(first, end)]
            parts.append(FileShards(file=file, skipped=first * shard_size - start, first_shard=first, rows=rows))
        start += number
    return parts


def write_parts(name: str, artifact: Artifact, source: HasFiles, parts: Sequence[FileShards]) -> Reasons:
    """Write the shards that are missing. Returns why rows of all shards cannot be used."""
    join()
    check_places(Need("the tasks that write prompts", 1, TASK))
    reasons = Reasons()
    for failed in results_of(write_part, ((artifact, source, part) for part in parts), f"prepare {name}: writing"):
        reasons.update(failed)
    return reasons


def write_part(artifact: Artifact, source: HasFiles, part: FileShards) -> Reasons:
    """The same for one part, whose shards are all written unless all are there."""
    reasons = Reasons()
    shards = [artifact.path(shard_name(part.first_shard + number)) for number in range(len(part.rows))]
    with told():
        if all(exists(uri) and num_rows(uri) == size for uri, size in zip(shards, part.rows, strict=True)):
            rows = (row for uri in shards for row in read_table(uri, ["prompt_id", "error"]).to_pylist())
        else:
            rows = (vars(prompt) for prompt in written(source, part, shards))
        for row in rows:
            if row["error"] is not None:
                reasons.add(row["prompt_id"], row["error"])
    return reasons


def written(source: HasFiles, part: FileShards, shards: Sequence[str]) -> Iterator[Prompt]:
    """The prompts of the shards, which are written."""
    prompts = islice(source.prompts_from(part.file), part.skipped, None)
    for uri, size in zip(shards, part.rows, strict=True):
        rows = list(islice(prompts, size))
        assert len(rows) == size, f"{uri}: the source has fewer rows than before"
        write_table(uri, table(rows, PROMPT_SCHEMA))
        yield from rows


def sample_in_parts(source: HasFiles, num_files: int) -> list[str]:
    """The sample of the images of all files."""
    join()
    found = results_of(sample_of_file, ((source, file) for file in range(num_files)), "prepare: reading image paths")
    return sample_of(path for sample in found for path in sample)


def sample_of_file(source: HasFiles, file: int) -> list[str]:
    with told():
        return sample_of(source.image_paths(file))
