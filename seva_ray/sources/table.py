"""Prompts from a table in parquet or JSON lines: one file or a directory of shards.

In: rows with a question and an image (a path, the encoded bytes, or Hugging Face's struct of both). Out: prompts in the
table's order, read batch by batch.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seva_ray.core.contents import is_hidden
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.listing import check_can_end, kind_of, linked_files
from seva_ray.core.patience import patient
from seva_ray.core.records import Prompt
from seva_ray.core.seeds import keys_of
from seva_ray.core.sorting import sorter
from seva_ray.core.storage import absolute, lies_in, locate
from seva_ray.sources.base import (
    PLACEHOLDER,
    as_object,
    check_directory,
    check_names,
    checked,
    examined,
    failed,
    rows_in,
)
from seva_ray.sources.files import json_value, lines_of, shown, unreadable

SUFFIXES = (".parquet", ".jsonl")

BATCH_ROWS = 64
"""Number of rows in memory at once. It is small because rows may hold whole images."""
BATCH_PATHS = 4096
"""Number of rows in memory at once if they hold only paths of images."""
IDS_AT_ONCE = 4096
LARGE_BYTES = 2**26
"""Size of a large table, in bytes. Without images it has some hundred thousand rows."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Makes one prompt from each row."""

    kind: ClassVar[str] = "Table"

    path: str = place()
    """A .parquet or .jsonl file, or a directory of them (sorted by name, with sub-directories): local or fsspec URI."""
    image_root: str | None = place(None)
    """The local directory or fsspec URI that image paths are relative to. It is not needed if the table holds bytes."""
    question_column: str = "question"
    """Column of the question's text. The placeholder <image> and white space around the text are removed."""
    image_column: str = "image"
    """Column of the image: a path under image_root, the encoded image file, or a struct {bytes, path}."""
    prompt_id_column: str | None = None
    """Column of a unique text or number. By default the id is the row's number in its file, in a directory after the
    file's name."""
    image_id_column: str | None = None
    """Column that is equal for all questions about one image. By default it is the image's path or a hash of its
    bytes."""
    source_column: str | None = None
    """Column of the source, by which reports group prompts. By default all rows have the source `source`."""
    source: str = "table"
    """The source of all rows if source_column is not given."""

    def __post_init__(self) -> None:
        check_names(self, "path", "question_column", "image_column", "source")
        object.__setattr__(self, "path", absolute(self.path))
        if self.image_root is not None:
            check_names(self, "image_root")
            object.__setattr__(self, "image_root", absolute(self.image_root))

    def reads(self, name: str) -> bool:
        """Whether a file of the table's directory is a part of it, or may be an image of it."""
        return is_shard(name) or (self.image_root is not None and lies_in(self.image_root, self.path))

    @property
    def columns(self) -> list[str]:
        optional = (self.prompt_id_column, self.image_id_column, self.source_column)
        return list(dict.fromkeys([self.question_column, self.image_column, *filter(None, optional)]))

    def prompts(self) -> Iterator[Prompt]:
        if self.image_root is not None:
            check_directory("image_root", self.image_root)
        prompts = (self._prompt(row, name) for name, row in self._rows())
        yield from examined(prompts) if self._has_distinct_ids() else checked(prompts)

    def image_paths(self, file: int | None = None) -> Iterator[str | None]:
        """The image path of each prompt, of all files or of one, in less time than the prompts themselves take."""
        others = {self.prompt_id_column, self.image_id_column, self.source_column} - {None}
        for name, row in self._rows(*([0] if file is None else [file, file + 1])):
            if type(row) is dict and not others:
                path, question = row.get(self.image_column), row.get(self.question_column)
                if type(path) is str and type(question) is str and question and path.isascii():
                    yield path
                    continue
            yield next(examined([self._prompt(row, name)])).image_path

    def rows_by_file(self) -> list[int] | None:
        """The number of rows in each file of a large table that several processes can read; None for another table."""
        filesystem, shards = find_shards(self.path)
        sizes = [filesystem.size(shard) for shard in shards.values()]
        if len(sizes) == 1 or sum(sizes) < LARGE_BYTES or self.image_root is None or not self._has_distinct_ids():
            return None
        found = [self._num_rows(filesystem, shard) for shard in shards.values()]
        return None if None in found else [number for number in found if number is not None]

    def _num_rows(self, filesystem: fsspec.AbstractFileSystem, shard: str) -> int | None:
        """The number of rows in a file. None if it may hold images, whose size decides where shards end."""
        try:
            with filesystem.open(shard, "rb") as file:
                if not shard.endswith(".parquet"):
                    return sum(1 for line in file if line.strip())
                parquet = pq.ParquetFile(file)
                self._check_schema(parquet.schema_arrow, shard)
                holds_images = may_be_images(parquet.schema_arrow.field(self.image_column).type)
                return None if holds_images else int(parquet.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{shard}: {' '.join(str(error).split())}") from None

    def prompts_from(self, file: int) -> Iterator[Prompt]:
        """The prompts of this file and of all files after it, for a table that has `rows_by_file`."""
        return examined(self._prompt(row, name) for name, row in self._rows(file))

    def _has_distinct_ids(self) -> bool:
        """Whether all ids are known to be distinct. If a large table names them itself, it is read once more for that,
        because a dictionary of 10 million ids takes 1 GB."""
        if self.prompt_id_column is None:
            return True
        filesystem, shards = find_shards(self.path)
        if sum(filesystem.size(shard) for shard in shards.values()) < LARGE_BYTES:
            return False
        with sorter() as keyed:
            rows = self._rows()
            while some := [self._prompt(row, name).prompt_id for name, row in islice(rows, IDS_AT_ONCE)]:
                stored = [prompt_id.encode("utf-8", "backslashreplace").decode() for prompt_id in some]
                keyed.add(keys_of(0, "prompt id", ids=stored), np.zeros(len(some), np.int64))
            return not keyed.has_equal_keys()

    def _rows(self, first: int = 0, end: int | None = None) -> Iterator[tuple[str, Any]]:
        """Every row, or those of the files from number `first` to before `end`, with the name of its place."""
        filesystem, shards = find_shards(self.path)
        for prefix, shard in [*shards.items()][first:end]:
            check_can_end(filesystem, shard, shard)
            read = self._parquet_rows if shard.endswith(".parquet") else self._lines
            for number, row in enumerate(read(filesystem, shard)):
                yield f"{prefix}{number}", row

    def _parquet_rows(self, filesystem: fsspec.AbstractFileSystem, shard: str) -> Iterator[Any]:
        try:
            with filesystem.open(shard, "rb") as file:
                parquet = pq.ParquetFile(file, pre_buffer=False)  # otherwise memory grows with the size of the file
                self._check_schema(parquet.schema_arrow, shard)
                kind = parquet.schema_arrow.field(self.image_column).type
                size = BATCH_ROWS if may_be_images(kind) else BATCH_PATHS
                for batch in parquet.iter_batches(batch_size=size, columns=self.columns):
                    yield from rows_in(batch)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{shard}: {' '.join(str(error).split())}") from None

    def _check_schema(self, schema: pa.Schema, shard: str) -> None:
        for column in self.columns:
            if column not in schema.names:
                raise InputError(f"{shard}: no column {column!r}; it has {', '.join(schema.names)}")
            if schema.names.count(column) > 1:
                raise InputError(f"{shard}: has several columns {column!r}")
        kind = schema.field(self.image_column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        has_paths = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (has_paths or may_be_images(kind)):
            raise InputError(
                f"{shard}: column {self.image_column!r} is {kind}; must be paths, bytes or a struct of them"
            )
        if has_paths and self.image_root is None:
            raise InputError(f"{shard}: column {self.image_column!r} holds paths, but image_root is not given")

    def _lines(self, filesystem: fsspec.AbstractFileSystem, shard: str) -> Iterator[Any]:
        """The rows of a JSON lines file. A line that is not JSON gives the exception instead of a row."""
        if self.image_root is None:
            raise InputError(f"{shard}: JSON lines hold image paths, but image_root is not given")
        with filesystem.open(shard, "rb") as file:
            try:
                for line in filter(bytes.strip, lines_of(file)):
                    try:
                        yield json_value(line)
                    except (ValueError, RecursionError) as error:
                        yield error
            except ValueError as error:
                raise unreadable(shard, error) from None

    def _prompt(self, row: Any, name: str) -> Prompt:
        prompt_id, source = name, self.source
        try:
            row = as_object(row)
            if self.prompt_id_column:
                prompt_id = text_of(row, self.prompt_id_column)
            if self.source_column:
                source = text_of(row, self.source_column)
            path, data = image_of(row, self.image_column)
            image_id = path or hashlib.sha256(data or b"").hexdigest()[:32]
            if self.image_id_column:
                image_id = text_of(row, self.image_id_column)
            question = text_of(row, self.question_column).replace(PLACEHOLDER, "").strip()
        except InputError as error:
            return failed(prompt_id, f"row {name}: {error}", source)
        return Prompt(
            prompt_id=prompt_id,
            image_id=image_id,
            question=question,
            source=source,
            image_path=path,
            image_bytes=data,
        )


def may_be_images(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold whole images."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)


def is_shard(name: str) -> bool:
    """Whether a file of a directory is a part of the table. Hidden files are none, such as Jupyter's checkpoints."""
    return name.endswith(SUFFIXES) and not is_hidden(name) and not name.rpartition("/")[2].startswith("_")


@patient
def find_shards(uri: str) -> tuple[fsspec.AbstractFileSystem, dict[str, str]]:
    """The files of a table, each by the prefix of its default prompt ids. Raises: InputError if there are none."""
    filesystem, path = locate(uri)
    kind = kind_of(filesystem, path)
    if kind != "directory":
        if kind != "file":
            raise InputError(f"{uri}: no such file")
        if not path.endswith(SUFFIXES):
            advice = "source:hf reads CSV, JSON and other forms too"
            raise InputError(f"{uri}: must be a {' or '.join(SUFFIXES)} file, or a directory of them; {advice}")
        return filesystem, {"": path}
    inner = sorted(filter(is_shard, linked_files(filesystem, path)))
    shards = {f"{name}-": f"{path.rstrip('/')}/{name}" for name in inner}
    if not shards:
        raise InputError(f"{uri}: no {' or '.join(SUFFIXES)} file in this directory")
    return filesystem, shards


def image_of(row: Mapping[str, Any], column: str) -> tuple[str | None, bytes | None]:
    """The row's image as (path, None) or (None, bytes). Raises: InputError if it has none."""
    value = value_in(row, column)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return value, None
    if isinstance(value, bytes) and value:
        return None, value
    raise InputError(f"column {column!r}: no image (a path, bytes, or a struct of them)")


def value_in(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise InputError(f"no column {column!r}; the row has {shown(row)}")
    return row[column]


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The row's text or whole number, as text. Raises: InputError if it is empty or of another type."""
    value = value_in(row, column)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        found = "empty" if value in (None, "") else type(value).__name__
        raise InputError(f"column {column!r}: must be a text, not {found}")
    return str(value)
