"""Prompts from what Hugging Face `datasets` reads, in the forms that the common trainers use.

In: parquet with Image features, a directory of `save_to_disk`, JSON, JSON lines, CSV, webdataset tars, a folder with
`metadata.jsonl`, or the name of a data set in Hugging Face's cache. Out: prompts in the data's order. Rows are
streamed: only one batch is in memory.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.listing import check_can_end
from seva_ray.core.records import Prompt
from seva_ray.core.storage import absolute, exists, is_directory, is_local, locate
from seva_ray.sources.base import as_object, check_directory, check_names, checked, failed, rows_in
from seva_ray.sources.files import BROKEN, TEXTS, plain, shown, text_rows, unreadable
from seva_ray.sources.forms import NoColumn, flat, image_of, named, only_known, questions_of

READERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""The reader of `datasets` for a file, by its suffix."""

KEYS = ("question", "conversation", "image", "prompt_id", "image_id", "source")
"""What a column can be named for."""

BATCH_ROWS = 64
"""Rows of a parquet file in memory at once. A row group may hold thousands of images."""


@dataclass(frozen=True, kw_only=True)
class Hf:
    """What Hugging Face `datasets` reads: question and image, `messages`, or ShareGPT's `conversations`."""

    kind: ClassVar[str] = "Hf"
    keys: ClassVar[tuple[str, ...]] = KEYS
    option: ClassVar[str] = "--source"
    """How the job's options begin that set these fields."""

    path: str = place()
    """A file, a directory, or the name of a data set in Hugging Face's cache. Files are .parquet, .arrow, .json,
    .jsonl, .csv, .tsv or .tar (text files and tars may end in .gz too); a name is like `user/name`, and the cache is
    that of this machine."""
    image_root: str | None = place(None)
    """The directory that image paths are relative to. By default it is the data set's own directory."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns that have unusual names, such as `question text image picture`. Keys: question, conversation, image,
    prompt_id, image_id, source. Columns that are not given here are recognised."""
    questions: tuple[str, ...] = ()
    """Questions about each image, instead of the data set's own."""
    split: str = "train"
    """The split that is read, if the data set has splits."""
    subset: str | None = None
    """The configuration that is read, if the data set has several."""
    source: str = "hf"
    """The source of all rows if no column `source` is named."""

    def __post_init__(self) -> None:
        check_names(self, "path", "split", "source")
        if (key := only_known(self.columns, self.keys)) is not None:
            raise ConfigError(f"columns {key!r}: must be one of {', '.join(self.keys)}")
        if any(not question.strip() for question in self.questions):
            raise ConfigError(f"questions {self.questions}: one of them is empty")
        object.__setattr__(self, "path", found(self.path))
        if self.image_root is None:
            own = self.path if is_directory(self.path) else self.path.rpartition("/")[0]
            object.__setattr__(self, "image_root", own)
        else:
            check_names(self, "image_root")
            object.__setattr__(self, "image_root", absolute(self.image_root))

    def prompts(self) -> Iterator[Prompt]:
        if not exists(self.path):
            if re.search(r"[*?{\[]", self.path):
                raise InputError(f"{self.path}: patterns are not read; give the directory that holds the files")
            raise InputError(
                f"{self.path}: no such file or directory, and no data set of this name in Hugging Face's cache "
                "(`hf download NAME --repo-type dataset` puts one there)"
            )
        check_directory("image_root", self.image_root or "")
        yield from checked(self._prompts())

    def _prompts(self) -> Iterator[Prompt]:
        for number, row in enumerate(self._rows()):
            yield from self.of_row(row, str(number))

    def _rows(self) -> Iterator[Any]:
        if not is_directory(self.path) and plain(self.path).endswith(TEXTS):
            return text_rows(self.path)
        return streamed(self.path, self.split, self.subset, self.option)

    def of_row(self, row: Any, number: str) -> Iterator[Prompt]:
        """The prompts of a row: one for each question."""
        prompt_id, source, given = number, self.source, row
        try:
            row = flat(as_object(row))
            prompt_id = self._told(row, "prompt_id", number)
            source = self._told(row, "source", source)
            path, data = image_of(row, self.columns)
            path = path and self._inside(path)
            image_id = path or hashlib.sha256(data or b"").hexdigest()[:32]
            image_id = self._told(row, "image_id", image_id)
            path, data = (None, blob) if (blob := self._cached(path)) is not None else (path, data)
            questions = self.questions or questions_of(row, self.columns)
        except InputError as error:
            more = self.advice(given, row) if isinstance(error, NoColumn) else ""
            yield failed(prompt_id, f"row {number}: {error}{more}", source)
            return
        for turn, question in enumerate(questions):
            yield Prompt(
                prompt_id=prompt_id if len(questions) == 1 else f"{prompt_id}-{turn}",
                image_id=image_id,
                question=question,
                source=source,
                image_path=path,
                image_bytes=data,
            )

    def advice(self, given: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        """What the row has, and what helps if a column was not recognised. `row` is `given` without empty columns."""
        hollow = [str(name) for name in given if name not in row]
        empty = f"; empty in this row: {shown(hollow)}" if hollow else ""
        named = " ".join(f"{key} NAME" for key in self.keys if key in ("question", "image", "chosen", "rejected"))
        return f"; the row has {shown(row) or 'no column'}{empty}; name yours with {self.option}.columns {named}"

    def _told(self, row: Mapping[str, Any], key: str, usual: str) -> str:
        value = named(row, self.columns, key)
        return usual if value is None else str(value)

    def _cached(self, path: str | None) -> bytes | None:
        """The bytes of an image that lies in Hugging Face's cache, where a data set's own directory has only a link."""
        repository, in_cache, _ = os.path.realpath(self.path).partition("/snapshots/")
        if not path or not in_cache:
            return None
        real = os.path.realpath(os.path.join(self.image_root or "", path))
        return Path(real).read_bytes() if real.startswith(f"{repository}/blobs/") else None

    def _inside(self, path: str) -> str:
        """The path relative to image_root. Raises: InputError if it is an absolute one outside of it."""
        if not path.startswith("/"):
            return path
        root = f"{(self.image_root or '').rstrip('/')}/"
        if path.startswith(root):
            return path.removeprefix(root)
        real_root, folder, name = f"{os.path.realpath(root)}/", *os.path.split(path)  # one may lead through a link
        if not (real := os.path.join(os.path.realpath(folder), name)).startswith(real_root):
            raise InputError(f"the image {path!r} is outside {root}; give {self.option}.image-root")
        return real.removeprefix(real_root)


def found(path: str) -> str:
    """The file or directory: the path itself, or the copy of a data set in Hugging Face's cache."""
    path = os.fspath(path)
    if exists(absolute(path)) or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return absolute(path)
    from huggingface_hub import snapshot_download  # takes a second
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(path, repo_type="dataset", local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return absolute(path)


def streamed(path: str, split: str, subset: str | None, option: str) -> Iterator[Any]:
    """The rows of a data set, read by `datasets`; images stay encoded. Raises: InputError if it cannot read it."""
    from datasets.exceptions import DatasetsError

    try:
        rows = in_directory(path, split, subset, option) if is_directory(path) else in_file(path, split)
        if isinstance(rows, list):
            for uri in rows:
                yield from text_rows(uri)
            return
        for row in (rows.decode(False) if rows.features else rows).with_format("arrow"):
            yield from rows_in(row)
    except (DatasetsError, RuntimeError, tarfile.TarError, pa.ArrowException, *BROKEN) as error:
        raise unreadable(path, error) from None


def in_file(path: str, split: str) -> Any:
    from datasets import load_dataset

    check_can_end(*locate(path), path)
    reader = next((reader for suffix, reader in READERS.items() if plain(path).endswith(suffix)), None)
    if reader is None:
        known = ", ".join([*READERS, *TEXTS])
        raise InputError(f"{path}: must be a directory, or a file with one of the suffixes {known}")
    more = {"batch_size": BATCH_ROWS} if reader == "parquet" else {}
    return load_dataset(reader, data_files={split: path}, split=split, streaming=True, **more)


def in_directory(path: str, split: str, subset: str | None, option: str) -> Any:
    """The data set in a directory; if it consists of text files, their paths: those are read without guessing types."""
    from datasets import DatasetDict, load_dataset_builder, load_from_disk
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    if not is_local(path):
        raise InputError(f"{path}: directories of data sets must be local; source:table reads remote ones")
    if exists(f"{path}/dataset_dict.json") or exists(f"{path}/state.json"):
        saved = load_from_disk(path)
        if isinstance(saved, DatasetDict):
            check_split(path, split, saved, option)
            saved = saved[split]
        return saved.to_iterable_dataset()
    try:
        builder = load_dataset_builder(path, name=subset)
    except ValueError as error:
        more = f" ({option}.subset)" if "onfig" in str(error) else ""
        raise InputError(f"{unreadable(path, error)}{more}") from None
    files = builder.config.data_files or {}
    check_split(path, split, files, option)
    if isinstance(builder, (Json, Csv)):
        return [str(file) for file in files[split]]
    if isinstance(builder, Parquet):
        builder.config.batch_size = BATCH_ROWS
    return builder.as_streaming_dataset(split)


def check_split(path: str, split: str, splits: Mapping[Any, Any], option: str) -> None:
    if split not in splits:
        raise InputError(f"{path}: no split {split!r}; it has {shown(splits) or 'none'} ({option}.split)")
