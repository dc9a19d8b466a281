"""Fake artifacts of any size, as the stages write them, which are made without keeping rows in memory.

A row has a question of about 60 bytes about one of 250 images, and answers of 20 tokens.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from seva_ray.benchmarks.base import Tally, percent, tally_of, text_of
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import PAIR_SCHEMA, PROMPT_SCHEMA, RESPONSE_SCHEMA, Prompt, Response
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import write_table
from seva_ray.stages.pair import PART_BYTES
from seva_ray.stages.training.reference import LOGPS_SCHEMA

SHARD_ROWS = 1024
NUM_TOKENS = 20
NUM_IMAGES = 250
NUM_SOURCES = 4
DISTINCT = 1_000 * SHARD_ROWS
"""Number of different rows of `train` and `evaluate`. Of more rows, files are links to those before them: both keep
nothing that is smaller for equal rows."""
QUESTIONS_PER_IMAGE = 4
QUESTIONS_PER_PART = 4096
PROMPTS, RESPONSES = "prompts/fake", ("responses/fake/fake/clean", "responses/fake/fake/diffusion-800")
TABLE = "rows.jsonl"


def numbers_of(num_rows: int) -> Iterator[tuple[str, range]]:
    """The name of each shard, and the numbers of its rows."""
    for index, start in enumerate(range(0, num_rows, SHARD_ROWS)):
        yield shard_name(index), range(start, min(start + SHARD_ROWS, num_rows))


def write_shards(artifact: Artifact, num_rows: int, made: Callable[[range], pa.Table], linked: bool = True) -> None:
    """Write the tables that `made` returns, each as one file."""
    for name, numbers in numbers_of(num_rows):
        if linked and numbers.start >= DISTINCT and len(numbers) == SHARD_ROWS:
            before = shard_name(numbers.start % DISTINCT // SHARD_ROWS)
            os.link(artifact.path(before), artifact.path(name))
        else:
            write_table(artifact.path(name), made(numbers), PART_BYTES)


def ids(numbers: range) -> list[str]:
    return [f"row-{number:010d}" for number in numbers]


def questions(numbers: range) -> list[str]:
    return [f"what does this picture number {number:010d} show , and where is it ?" for number in numbers]


def images(numbers: range) -> list[str]:
    return [f"{number % NUM_IMAGES}.png" for number in numbers]


def tokens(numbers: range, seed: int) -> pa.Array:
    draws = np.random.default_rng([seed, numbers.start]).integers(1, 32_000, len(numbers) * NUM_TOKENS, np.int32)
    return pa.ListArray.from_arrays(np.arange(0, len(draws) + 1, NUM_TOKENS, dtype=np.int32), draws)


def texts(numbers: range, word: str) -> list[str]:
    return [f"{word} answer to question {number}" for number in numbers]


def pair_table(numbers: range, image_bytes: int) -> pa.Table:
    """Kept pairs with one rejected response. Rows hold images of `image_bytes` bytes, which are random."""
    number, nothing = len(numbers), pa.nulls(len(numbers))
    random = np.random.default_rng(numbers.start)
    blobs = [random.bytes(image_bytes) for _ in numbers] if image_bytes else nothing.cast(pa.binary())
    rejected = pa.StructArray.from_arrays(
        [["diffusion-800"] * number, texts(numbers, "another"), tokens(numbers, 1)], ["view", "text", "token_ids"]
    )
    columns = {
        "prompt_id": ids(numbers),
        "image_id": images(numbers),
        "question": questions(numbers),
        "source": ["fake"] * number,
        "image_path": nothing.cast(pa.string()) if image_bytes else images(numbers),
        "image_bytes": blobs,
        "chosen": texts(numbers, "one"),
        "chosen_token_ids": tokens(numbers, 0),
        "rejected": pa.ListArray.from_arrays(np.arange(number + 1, dtype=np.int32), rejected),
    }
    return pa.table(columns, schema=PAIR_SCHEMA)


def logps_table(numbers: range) -> pa.Table:
    values = np.random.default_rng(numbers.start).normal(-30, 5, 2 * len(numbers)).astype(np.float32)
    offsets = np.arange(0, len(values) + 1, 2, dtype=np.int32)
    columns = {"prompt_id": ids(numbers), "ref_logps": pa.ListArray.from_arrays(offsets, values)}
    return pa.table(columns, schema=LOGPS_SCHEMA)


def prompt_table(numbers: range) -> pa.Table:
    nothing = pa.nulls(len(numbers))
    columns = {
        "prompt_id": ids(numbers),
        "image_id": images(numbers),
        "question": questions(numbers),
        "source": [f"source {number % NUM_SOURCES}" for number in numbers],
        "image_path": images(numbers),
        "image_bytes": nothing.cast(pa.binary()),
        "error": nothing.cast(pa.string()),
    }
    return pa.table(columns, schema=PROMPT_SCHEMA)


def response_table(numbers: range, view: int) -> pa.Table:
    """Every third answer of view 1 is equal to that of view 0."""
    words = ["another" if view and number % 3 else "one" for number in numbers]
    columns = {
        "prompt_id": ids(numbers),
        "text": [f"{word} answer to question {number}" for word, number in zip(words, numbers, strict=True)],
        "token_ids": tokens(numbers, view),
        "finish_reason": ["stop"] * len(numbers),
        "error": pa.nulls(len(numbers)).cast(pa.string()),
    }
    return pa.table(columns, schema=RESPONSE_SCHEMA)


def fake_responses(root: str, num_rows: int, linked: bool = False) -> list[Artifact]:
    """The artifacts of prompts and of both views' responses."""
    store = Store(root)
    prompts = store.open(PROMPTS, config={})
    write_shards(prompts, num_rows, prompt_table, linked)
    prompts = prompts.finish({"num_prompts": num_rows, "num_shards": len(list(numbers_of(num_rows))), "image_root": ""})
    views = [store.open(name, config={}, inputs=[prompts]) for name in RESPONSES]
    for view, artifact in enumerate(views):
        write_shards(artifact, num_rows, partial(response_table, view=view), linked)
    return [prompts, *(artifact.finish({}) for artifact in views)]


def linked_responses(root: str, num_rows: int) -> None:
    fake_responses(root, num_rows, linked=True)


def fake_table(root: str, num_rows: int) -> None:
    """A table of JSON lines, and its images."""
    directory = Path(root, "images")
    directory.mkdir()
    for name in images(range(NUM_IMAGES)):
        (directory / name).write_bytes(name.encode())
    with open(f"{root}/{TABLE}", "w", encoding="utf-8") as file:
        for _, numbers in numbers_of(num_rows):
            for question, image in zip(questions(numbers), images(numbers), strict=True):
                file.write(json.dumps({"question": question, "image": image}) + "\n")


def fake_pairs(root: str, num_rows: int, image_bytes: int = 0) -> tuple[Artifact, Artifact]:
    """The artifacts of kept pairs and of their reference log-probabilities."""
    store = Store(root)
    pairs, logps = (store.open(name, config={}) for name in ("pairs/fake/fake/fake", "logps/fake/fake/fake/float32"))
    for artifact, made in (
        (replace(pairs, uri=pairs.path("pairs")), partial(pair_table, image_bytes=image_bytes)),
        (logps, logps_table),
    ):
        write_shards(artifact, num_rows, made)
    return pairs, logps


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A benchmark with QUESTIONS_PER_IMAGE questions about each image, of which an answer that begins with `one` is
    right. It reads its questions nowhere, so it takes no memory itself."""

    kind: ClassVar[str] = "Asked"
    name: ClassVar[str] = "fake"
    protocol: ClassVar[str] = "fake"
    image_root: ClassVar[None] = None

    first: int = 0
    """Number of the first question."""
    num_questions: int
    total: int
    """Number of questions of the whole benchmark."""

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.num_questions)

    @cached_property
    def ids(self) -> list[str]:
        """The prompt_ids, which are those of earlier rows in files that are links."""
        whole = self.total // SHARD_ROWS * SHARD_ROWS
        return [f"row-{number % DISTINCT if number < whole else number:010d}" for number in self.numbers]

    def prompts(self) -> Iterator[Prompt]:
        for number, name in zip(self.numbers, self.ids, strict=True):
            image = f"image-{number // QUESTIONS_PER_IMAGE}"
            yield Prompt(prompt_id=name, image_id=image, question="?", source="fake", image_path=image)

    def parts(self) -> Iterator["Asked"]:
        for first in self.numbers[::QUESTIONS_PER_PART]:
            num = min(QUESTIONS_PER_PART, self.numbers.stop - first)
            yield replace(self, first=first, num_questions=num)

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        return {name: (text_of(responses, name) or "").startswith("one") for name in self.ids}

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        right = self.correct(responses).values()
        images = (f"image-{number // QUESTIONS_PER_IMAGE}" for number in self.numbers)
        counted = ((image, {"asked": 1.0, "right": float(hit)}) for image, hit in zip(images, right, strict=True))
        return tally_of(("asked", "right"), counted)

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"accuracy": percent(sums["right"], sums["asked"])}
