"""export pairs: an artifact of pairs -> one directory that Hugging Face datasets and the common trainers read.

    data/train-*.parquet                       datasets.load_dataset, and TRL's DPOTrainer
    llama_factory.jsonl, dataset_info.json     LLaMA-Factory
    swift.jsonl                                ms-swift
    seva.json                                  the official SeVa code
    images/                                    what the last three name by relative paths
    README.md                                  the data set's card

One shard of pairs is in memory at a time. A pair with several rejected responses becomes several rows.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.storage import exists, is_local, read_table
from seva_ray.core.submission import check_lasts
from seva_ray.pages.dataset_card import DatasetContent, dataset_card
from seva_ray.pairs import formats
from seva_ray.pairs.files import files_of, lineage, origin_of
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import Progress, say
from seva_ray.stages.export import check_repository, push
from seva_ray.vlm.images import read_image

SHARDS_PER_FILE = 16
"""Number of shards of pairs in one parquet file. With 100 kB per image, a file has about 400 MB."""

NUM_SAMPLES = 3
"""Number of pairs that the card shows."""

SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}
"""Suffixes of image files by the bytes that they begin with. The one format that is not here is WebP."""


@dataclass(frozen=True, kw_only=True)
class ExportPairs:
    """What is exported of the pairs, and to which place."""

    to: str
    """The target: a local directory or an fsspec URI that does not exist yet."""
    push: str = ""
    """A data set repository of the hub (`user/name`) that gets the same files. A new one is private. Empty: nothing is
    pushed."""
    license: str = ""
    """The licence that the card names, such as `cc-by-4.0`. It must fit that of the images and questions. Empty: the
    card says that none was given."""

    def __post_init__(self) -> None:
        if not self.to:
            raise ConfigError("to '': must name a directory")
        check_repository(self.push)


def export_pairs(config: ExportPairs, store: Store, name: str) -> str:
    """Export the pairs `name` and return where they are. Raises: InputError if they are missing, or there are none, or
    an image cannot be read, or the target exists."""
    check_lasts("to", config.to)
    pairs = store.find(name)
    prompts, _, _ = lineage(store, pairs)
    if exists(config.to):
        raise InputError(f"to {config.to}: already exists; choose another place or remove it")
    beside = Path(config.to).expanduser().absolute().parent if is_local(config.to) else None
    if beside:
        beside.mkdir(parents=True, exist_ok=True)
    with (
        waiting(f"export {name}: writing the pairs"),
        tempfile.TemporaryDirectory(prefix=".seva-export-", dir=beside) as scratch,
    ):
        directory = Path(scratch, "export")
        num_rows, samples = write_all(directory, pairs, prompts.counts["image_root"])
        if not num_rows:
            raise InputError(f"{name}: there is no pair in it")
        (directory / "README.md").write_text(
            dataset_card(content(config, store, pairs, num_rows, samples)), encoding="utf-8"
        )
        if config.push:
            push(directory, config.push, "dataset")
        write_directory(config.to, str(directory))
    say(f"export {name}: {num_rows:,} rows in {config.to}" + (f", and {config.push}" if config.push else ""))
    return config.to


def write_all(directory: Path, pairs: Artifact, image_root: str | None) -> tuple[int, list[dict[str, Any]]]:
    """Write every file but the card. Return the number of rows, and the first rows without their images."""
    (directory / "images").mkdir(parents=True)
    (directory / "data").mkdir()
    (directory / "dataset_info.json").write_text(json.dumps(formats.DATASET_INFO, indent=1), encoding="utf-8")
    shards = files_of(pairs)
    groups = [shards[start : start + SHARDS_PER_FILE] for start in range(0, len(shards), SHARDS_PER_FILE)]
    num_rows = 0
    samples: list[dict[str, Any]] = []
    with ExitStack() as files:
        lines, swift, official = (
            files.enter_context((directory / file).open("w", encoding="utf-8"))
            for file in ("llama_factory.jsonl", "swift.jsonl", "seva.json")
        )
        progress = Progress("export", len(groups), "files")
        for number, group in enumerate(groups):
            file = directory / "data" / f"train-{number:05d}-of-{len(groups):05d}.parquet"
            with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
                for uri in group:
                    rows = []
                    for row, rejected, image in rows_of(uri, image_root):
                        path = saved(directory, image)
                        rows.append(formats.trl(row, rejected, image))
                        lines.write(written(formats.llama_factory(row, rejected, path)) + "\n")
                        swift.write(written(formats.swift(row, rejected, path)) + "\n")
                        official.write(",\n" if num_rows else "[\n")
                        official.write(written(formats.official(row, rejected, path)))
                        num_rows += 1
                    writer.write_table(pa.Table.from_pylist(rows, schema()), row_group_size=64)
                    samples = (samples + [{**row, "images": path} for row in rows])[:NUM_SAMPLES]
            progress.add(1)
        official.write("\n]\n")
    return num_rows, samples


def rows_of(uri: str, image_root: str | None) -> Iterator[tuple[dict[str, Any], dict[str, Any], bytes]]:
    """Each pair of a shard with each of its rejected responses, and the encoded image. Raises: InputError."""
    read = lru_cache(maxsize=1)(image_at)  # the row before this one often has the same image
    for row in read_table(uri).to_pylist():
        image = row["image_bytes"]
        if image is None:
            image = read(row["image_path"], image_root)
        for rejected in row["rejected"]:
            yield row, rejected, image


def image_at(path: str | None, image_root: str | None) -> bytes:
    """Raises: InputError."""
    try:
        return read_image(path, image_root)
    except OSError as error:
        raise InputError(f"image {path}: {error.strerror or error} (image_root {image_root})") from None


def saved(directory: Path, image: bytes) -> str:
    """Write the image under a name that follows from its contents, and return its path in the directory."""
    digest = hashlib.sha256(image).hexdigest()[:32]
    suffix = next((end for start, end in SUFFIXES.items() if image.startswith(start)), "webp")
    path = f"images/{digest[:2]}/{digest}.{suffix}"
    if not (directory / path).exists():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_bytes(image)
    return path


def schema() -> pa.Schema:
    """The columns, with the description by which `datasets` knows that they hold images."""
    from datasets import Features, Image, List, Value  # takes seconds

    text = Value("string")
    conversation = [{"role": text, "content": text}]
    about = dict.fromkeys(("prompt_id", "image_id", "source", "view"), text)
    turns = dict.fromkeys(("prompt", "chosen", "rejected"), conversation)
    return Features({"images": List(Image()), **turns, **about}).arrow_schema


def written(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def content(
    config: ExportPairs, store: Store, pairs: Artifact, num_rows: int, samples: list[dict[str, Any]]
) -> DatasetContent:
    prompts, chosen, rejected = lineage(store, pairs)
    return DatasetContent(
        name=pairs.name.removeprefix("pairs/"),
        model=chosen.name.split("/")[1],
        origin=origin_of(pairs),
        num_rows=num_rows,
        num_prompts=pairs.counts["num_prompts"],
        license=config.license,
        views=pairs.counts["views"],
        samples=samples,
        settings={
            "pairs": pairs.recipe["config"],
            "chosen": chosen.recipe["config"],
            **{f"rejected {item.name.rsplit('/', 1)[-1]}": item.recipe["config"] for item in rejected},
            "prompts": prompts.recipe["config"],
        },
        lineage={item.name: item.fingerprint for item in (prompts, chosen, *rejected, pairs)},
        versions=chosen.record["versions"] if chosen.record else {},
    )
