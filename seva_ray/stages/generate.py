"""generate: prompts x view -> the artifact `responses/<model>/<prompts>/<view>`, one response per prompt.

The unit of work is (shard of prompts, view). Its response file has a name that follows from the shard and is
committed in one step, so a retry, a restart or a second copy of the same task changes nothing, and a restart runs
only missing units.
Ray Data carries each unit as one block: CPU tasks read, augment and preprocess, an actor pool generates and commits.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import fsspec
import numpy as np
import pyarrow.compute as pc
import ray
import tyro

from seva_ray.artifacts import Artifact, Store
from seva_ray.augmentations import parse_view
from seva_ray.encoding import VICUNA_V1, Encoder
from seva_ray.engines import Decoding, Engine, FakeEngine, Request, TransformersEngine, VllmEngine
from seva_ray.errors import ConfigError, UserError
from seva_ray.fingerprints import execution
from seva_ray.models import Model
from seva_ray.records import RESPONSE_SCHEMA, Response, table
from seva_ray.stages.cluster import has_gpus, join
from seva_ray.stages.prepare import shard_name
from seva_ray.stages.progress import Progress, say
from seva_ray.storage import local_directory, read_table, write_table
from seva_ray.views import Viewer

UNIT_BYTES = 512 * 2**20
"""Memory that a task is given to make one unit's pixels: 256 rows of 336 px are 347 MB."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How responses are generated."""

    engine: Annotated[VllmEngine | TransformersEngine | FakeEngine, tyro.conf.AvoidSubcommands] = field(
        default_factory=VllmEngine
    )
    """What runs the model. Which of the engines is a preset's choice."""
    decoding: Decoding = field(default_factory=Decoding)
    """The same for every view."""
    system: str = VICUNA_V1
    """System text before the question; empty for none. Training uses the same."""
    seed: int = 0
    """Of the augmentations' randomness, together with each prompt_id and the view."""
    min_engines: int = execution(1)
    """Replicas that are kept."""
    max_engines: int = execution(1)
    """Replicas that the pool may grow to."""
    max_image_pixels: int = 64_000_000
    """An image that has more, also once padded to a square, is a `failed` row."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_engines <= self.max_engines:
            raise ConfigError(f"min_engines {self.min_engines}: must be 1 to max_engines {self.max_engines}")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One shard in one view."""

    prompts_uri: str
    responses_uri: str
    view: str
    image_root: str | None


def generate(config: Generate, store: Store, model: Model, work: Sequence[tuple[Artifact, str]]) -> list[Artifact]:
    """The responses of each (prompts, view); all that is missing shares one pool of engines."""
    opened = [open_responses(config, store, model, prompts, view) for prompts, view in work]
    units = [
        unit
        for (prompts, view), artifact in zip(work, opened, strict=True)
        if not artifact.complete
        for unit in missing_units(prompts, view, artifact)
    ]
    if units:
        say(f"generate with {model.name}: {len(units):,} units to do")
        run_units(config, model, units)
    return [
        artifact if artifact.complete else finish_responses(prompts, artifact)
        for (prompts, _), artifact in zip(work, opened, strict=True)
    ]


def open_responses(config: Generate, store: Store, model: Model, prompts: Artifact, view: str) -> Artifact:
    """The clean view does not depend on the augmentations' seed, so that it is shared by all of them."""
    augmentation = parse_view(view)
    recipe = {
        "model": model.fingerprint,
        "engine": config.engine,
        "decoding": config.decoding,
        "system": config.system,
        "max_image_pixels": config.max_image_pixels,
        "augmentation": augmentation and {"seed": config.seed, "augmentation": augmentation},
    }
    name = f"responses/{model.name}/{prompts.name.removeprefix('prompts/')}/{view}"
    return store.open(name, config=recipe, inputs=[prompts])


def missing_units(prompts: Artifact, view: str, artifact: Artifact) -> list[Unit]:
    filesystem, path = fsspec.core.url_to_fs(artifact.uri)
    filesystem.invalidate_cache()
    done = {name.rsplit("/", 1)[-1] for name in filesystem.ls(path, detail=False)}
    return [
        Unit(
            prompts_uri=prompts.path(name),
            responses_uri=artifact.path(name),
            view=view,
            image_root=prompts.counts["image_root"],
        )
        for name in map(shard_name, range(prompts.counts["num_shards"]))
        if name not in done
    ]


def run_units(config: Generate, model: Model, units: Sequence[Unit]) -> None:
    join()
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a unit is one block, whatever its size
    context.enable_progress_bars = False
    gpus = config.engine.tensor_parallel_size if isinstance(config.engine, VllmEngine) and has_gpus() else 0
    responses = (
        ray.data.from_items([vars(unit) for unit in units], override_num_blocks=len(units))
        .map_batches(
            encode_unit,
            batch_size=1,
            num_cpus=1,
            memory=UNIT_BYTES,  # with the engines' resources Ray Data would run it inside their actors
            fn_kwargs={"config": config, "directory": model.directory},
        )
        .map_batches(
            UnitWorker,
            batch_size=None,
            batch_format="numpy",
            num_cpus=1,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(min_size=config.min_engines, max_size=config.max_engines),
            fn_constructor_args=(config.engine, config.decoding, model.directory),
        )
    )
    progress = Progress("generate", len(units), "units")
    num_rows = 0
    for row in responses.iter_rows():
        num_rows += row["num_rows"]
        progress.add(1, note=f", {num_rows:,} responses")


@cache
def encoder(directory: str, system: str) -> Encoder:
    """One per worker process and model."""
    return Encoder(local_directory(directory), system)


def encode_unit(batch: dict[str, Any], config: Generate, directory: str) -> dict[str, Any]:
    """Read a shard and make its rows ready for the engine; a row that fails carries its error on."""
    unit = Unit(**{key: values[0] for key, values in batch.items()})
    viewer = Viewer(
        encoder=encoder(directory, config.system),
        image_root=unit.image_root,
        max_pixels=config.max_image_pixels,
        seed=config.seed,
    )
    rows = [encode_row(row, unit.view, viewer) for row in read_table(unit.prompts_uri).to_pylist()]
    columns = {key: [row[key] for row in rows] for key in ("prompt_id", "prompt_ids", "pixels_id", "error")}
    pixels = np.stack([row["pixels"] for row in rows])
    return columns | {"pixels": pixels, "responses_uri": [unit.responses_uri] * len(rows)}


def encode_row(row: dict[str, Any], view: str, viewer: Viewer) -> dict[str, Any]:
    """The row's request; or, with `error` set, a blank one that is not sent to the engine."""
    error, prompt_ids, pixels = row["error"] or "", [], np.zeros(viewer.encoder.pixels_shape, np.float32)
    if not error:
        try:
            prompt_ids, pixels = viewer.encoder.prompt_ids(row["question"]), viewer.pixels(row, view)
        except UserError as problem:
            error = str(problem)
    return {
        "prompt_id": row["prompt_id"],
        "prompt_ids": prompt_ids,
        "pixels": pixels,
        "pixels_id": hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest(),
        "error": error,
    }


class UnitWorker:
    """An actor with a loaded model: generates a unit and commits it."""

    def __init__(self, engine: Engine, decoding: Decoding, directory: str):
        self.generator = engine.load(local_directory(directory), decoding)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        uris = set(batch["responses_uri"])
        assert len(uris) == 1, f"a block holds several units: {uris}"
        responses = list(self.responses(rows))
        write_table(uris.pop(), table(responses, RESPONSE_SCHEMA))
        return {"num_rows": [len(responses)]}

    def responses(self, rows: Sequence[dict[str, Any]]) -> Iterator[Response]:
        requests = [
            Request(
                prompt_id=row["prompt_id"],
                prompt_ids=[int(token) for token in row["prompt_ids"]],
                pixels=row["pixels"],
                pixels_id=row["pixels_id"],
            )
            for row in rows
            if not row["error"]
        ]
        generated = iter(self.generator.generate(requests))
        for row in rows:
            yield Response(prompt_id=row["prompt_id"], error=row["error"]) if row["error"] else next(generated)


def finish_responses(prompts: Artifact, artifact: Artifact) -> Artifact:
    """All units are there: count how the responses ended."""
    counts: dict[str, int] = {"num_responses": 0, "num_tokens": 0}
    for name in map(shard_name, range(prompts.counts["num_shards"])):
        shard = read_table(artifact.path(name), columns=["finish_reason", "token_ids"])
        counts["num_responses"] += len(shard)
        counts["num_tokens"] += pc.sum(pc.list_value_length(shard["token_ids"])).as_py() or 0
        for item in pc.value_counts(shard["finish_reason"]).to_pylist():
            key = f"num_{item['values']}"
            counts[key] = counts.get(key, 0) + item["counts"]
    return artifact.finish(counts)


def read_responses(prompts: Artifact, artifact: Artifact) -> Iterator[Response]:
    """All responses, in the prompts' order."""
    for name in map(shard_name, range(prompts.counts["num_shards"])):
        for row in read_table(artifact.path(name)).to_pylist():
            yield Response(**row)
