"""engine_pool: units -> files of responses. CPU tasks read, augment and preprocess the units. A pool of actors, each of
which holds an engine, answers and commits them. In Ray Data a unit is the only row of a block, and so one task.
"""

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.outlines import local_outline
from seva_ray.engines import Decoding, Engine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.units import UNITS_PER_CALL, Encoded, Unit, answer, encode
from seva_ray.engines.vllm_models import check_architecture, check_attention
from seva_ray.planning.memory import engine_refusal, sequences_held
from seva_ray.runtime import metrics, preflight
from seva_ray.runtime.actors import rows_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.resources import GENERATION, Need, capacity, check_places, kind, nodes, options, total
from seva_ray.runtime.sizing import engines_at_once, gpus_each, num_engines
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_shape import PHOTOGRAPH, shape_of
from seva_ray.vlm.views import Viewer

ROW_BYTES = 2 * 2**20
"""Least memory to request per row when encoding images, in bytes. The pixels of one 336 px image take 1.35 MB."""
ROW_SHARE = 1.5
"""Memory to request per row, as a multiple of what the model reads of a photograph."""
LEAST_BYTES = 512 * 2**20
"""Least memory to request for a unit, in bytes: even a small unit decodes each image at its full size."""


def run_units(config: Generate, units: Sequence[Unit]) -> Iterator[str]:
    """Run all units through one pool of engines. Yield the URI of the responses each time that a unit is committed."""
    progress = Progress("generate", len(units), "units")
    num_rows = 0
    for start in range(0, len(units), UNITS_PER_CALL):
        for row in commits(config, units[start : start + UNITS_PER_CALL]):
            num_rows += row["num_rows"]
            progress.add(1, note=f", {num_rows:,} responses")
            yield row["responses_uri"]


def commits(config: Generate, units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    """The row that UnitWorker returns for each unit that it has committed."""
    import ray.data

    join()
    if isinstance(config.engine, VllmEngine):
        check_architecture(local_outline(units[0].model_directory))
        reads = encoder(config.engine, units[0].model_directory, units[0].system, config.image_options)
        check_attention(reads, on_cpu=not gpus_each(config, capacity()))
    need = encoding_need(max(unit.num_rows for unit in units), row_bytes(config, units[0]))
    check_engines(config, need)
    check_memory(config, units[0].model_directory)
    there = capacity()
    # Ray Data adds engines one by one, each when all before it are loaded and busy, and ends those that wait for units.
    at_once = min(engines_at_once(config, there, total(nodes())), math.ceil(len(units) / config.units_per_engine))
    return rows_of(
        lambda: (
            ray.data.from_items([{"unit": json.dumps(asdict(unit))} for unit in units], override_num_blocks=len(units))
            .map_batches(
                encode_unit,
                batch_size=1,
                fn_kwargs={"config": config},
                **options(need),  # with the engines' resources, Ray Data would run this inside the engine actors
            )
            .map_batches(
                UnitWorker,
                batch_size=1,
                batch_format="numpy",
                **options(engine_need(config)),
                compute=ray.data.ActorPoolStrategy(
                    min_size=max(config.min_engines, at_once),
                    max_size=config.max_engines or num_engines(config, there),
                    # As many units again wait at the actor: the pool grows if units wait, and pixels arrive in time.
                    max_tasks_in_flight_per_actor=2 * config.units_per_engine,
                    max_concurrent_calls_per_actor=config.units_per_engine,
                    enable_true_multi_threading=True,
                ),
                fn_constructor_args=(config.engine, config.decoding, units[0].model_directory, config.image_options),
            )
        ),
        first="generate: waiting for an engine to load the model and answer the first unit",
        others="generate: waiting for the next unit",
    )


def engine_need(config: Generate) -> dict[str, float]:
    """The resources that one engine takes of its node."""
    gpus = gpus_each(config, capacity())
    return {"CPU": 1, "GPU": gpus} | kind(GENERATION, max(1, gpus))


def row_bytes(config: Generate, unit: Unit) -> float:
    """Memory to request per row, which follows from what the model's processor makes of a photograph."""
    reads = encoder(config.engine, unit.model_directory, unit.system, config.image_options)
    row = reads.row("", Image.new("RGB", PHOTOGRAPH))
    return max(ROW_BYTES, ROW_SHARE * sum(values.nbytes for values in row.features.values()))


def encoding_need(num_rows: int, bytes_each: float = ROW_BYTES) -> dict[str, float]:
    """The resources that a task takes of its node to encode a unit of `num_rows` rows."""
    return {"CPU": 1, "memory": max(LEAST_BYTES, num_rows * bytes_each)}


def check_engines(config: Generate, encoding: Mapping[str, float]) -> None:
    """Raises: InputError if the cluster has no room for the engines, or for a task that encodes their units."""
    sharded = getattr(config.engine, "tensor_parallel_size", 1) > 1
    sharding = "--generate.engine.tensor-parallel-size"
    engines = Need(
        "an engine",
        config.min_engines,
        engine_need(config),
        fewer="--generate.min-engines",
        smaller={"GPU": sharding, GENERATION: sharding} if sharded else {},
    )
    smaller = {"memory": "--prepare.shard-size"} if encoding["memory"] > LEAST_BYTES else {}
    check_places(engines, Need("the task that encodes images", 1, encoding, smaller=smaller))


def check_memory(config: Generate, directory: str) -> None:
    """Say how many answers vLLM's cache holds at once on the GPUs that are there. Raises: InputError if it holds none,
    or if torch cannot use the GPUs."""
    cards = preflight.cards(GENERATION) if gpus_each(config, capacity()) else []
    if not cards or not isinstance(config.engine, VllmEngine):
        return
    shape = shape_of(local_outline(directory), config.image_options)
    longest = config.decoding.max_new_tokens
    for card in cards:
        if config.memory_check and (line := engine_refusal(shape, config.engine, card.name, card.gib)):
            raise InputError(line)
        held = sequences_held(shape, config.engine, card.gib, longest)
        say(f"generate: an engine on {card.name} has room for the keys and values of about {held:,} answers at once")


@lru_cache(maxsize=8)
def encoder(engine: Engine, directory: str, system: str, image_options: str) -> Encoder:
    """The encoder of a model, made once per worker process."""
    with quick_imports():
        return engine.encoder(local_outline(directory), system, image_options)


@told()
def encode_unit(batch: dict[str, Any], config: Generate) -> dict[str, Any]:
    """The task of Ray Data that encodes the unit in the batch's only row."""
    unit = Unit(**json.loads(batch["unit"][0]))
    viewer = Viewer(
        encoder=encoder(config.engine, unit.model_directory, unit.system, config.image_options),
        image_root=unit.image_root,
        max_pixels=config.max_image_pixels,
        seed=config.seed,
    )
    header, arrays = encode(unit, viewer).packed()
    return {"header": [header], "arrays": arrays[None]}


class UnitWorker:
    """The actor of Ray Data that holds an engine with a loaded model, answers units and commits them."""

    @told()
    def __init__(self, engine: Engine, decoding: Decoding, directory: str, image_options: str = ""):
        with quick_imports():
            self.generator = engine.load(local_directory(directory), decoding, image_options)
        metrics.watch(self.generator)
        self.directory = directory
        self.num_running = 0
        self.turn = threading.Condition()

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began_at = time.time()
        encoded = Encoded.of(batch["header"][0], batch["arrays"][0])
        with self.model(encoded.unit.model_directory):
            responses = answer(encoded, self.generator)
        metrics.committed(encoded.unit, responses)
        return {
            "num_rows": [len(responses)],
            "responses_uri": [encoded.unit.responses_uri.rpartition("/")[0]],
            "began_at": [began_at],
            "committed_at": [time.time()],
        }

    @contextmanager
    def model(self, directory: str) -> Iterator[None]:
        """Units of one model run side by side. A unit of another model waits for them; then the engine loads its
        weights."""
        with self.turn:
            self.turn.wait_for(lambda: not self.num_running or self.directory == directory)
            if self.directory != directory:
                self.generator.switch(local_directory(directory))
                self.directory = directory
            self.num_running += 1
        try:
            yield
        finally:
            with self.turn:
                self.num_running -= 1
                self.turn.notify_all()
