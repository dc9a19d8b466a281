"""unit_worker: what the workers of generation do. A task encodes the units of a shard; an actor that holds an engine
answers and commits them.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeVar

from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.outlines import local_outline
from seva_ray.engines import Decoding, Engine
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import counts_of, read_counts
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import Unit, answer, is_committed
from seva_ray.runtime import metrics
from seva_ray.runtime.actors import told
from seva_ray.stages.engine_watch import WatchedGenerator, loaded
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.views import Viewer

Result = TypeVar("Result")
Weights = tuple[str, str]
"""A model's directory, and what tells the model from another one that was there before."""


def weights_of(unit: Unit) -> Weights:
    return unit.model_directory, unit.model_contents


def encoder_of(config: Generate, unit: Unit) -> Encoder:
    return encoder(config.engine, weights_of(unit), unit.system, config.image_options)


@lru_cache(maxsize=8)
def encoder(engine: Engine, weights: Weights, system: str, image_options: str) -> Encoder:
    """The encoder of a model, made once per worker process."""
    with quick_imports():
        return engine.encoder(local_outline(weights[0]), system, image_options)


def task_of(units: Sequence[Unit]) -> dict[str, str]:
    """The row of Ray Data from which `encode_units` encodes these units of one shard."""
    return {"units": json.dumps([asdict(unit) for unit in units])}


@told()
def encode_units(batch: dict[str, Any], config: Generate) -> dict[str, Any]:
    """The task of Ray Data that encodes the units in the batch's only row."""
    units = [Unit.of(unit) for unit in json.loads(batch["units"][0])]
    viewer = Viewer(
        encoder=encoder_of(config, units[0]),
        image_root=units[0].image_root,
        max_pixels=config.max_image_pixels,
        seed=config.seed,
    )
    header, buffer = encode(units, viewer, config.row_cpu_s)
    return {"header": [header], "buffer": buffer[None]}


class UnitWorker:
    """The actor of Ray Data that holds an engine with a loaded model, answers units and commits them."""

    @told()
    def __init__(
        self,
        engine: Engine,
        decoding: Decoding,
        weights: Weights,
        image_options: str = "",
        silent_s: float = math.inf,
        load_s: float = math.inf,
    ):
        self.load_s = load_s
        with quick_imports():
            self.generator = self.loaded(
                lambda: engine.load(local_directory(weights[0]), decoding, image_options), weights
            )
        metrics.watch(self.generator)
        self.watched = WatchedGenerator(self.generator, silent_s)
        self.weights: Weights | None = weights
        """What the engine holds. None: unknown, because it failed to load others."""
        self.num_running = 0
        self.turn = threading.Condition()

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began_at = time.time()
        made: dict[str, list[Any]] = {"responses_uri": [], "counts": [], "began_at": [], "committed_at": []}
        for encoded in encoded_of(batch["header"][0], batch["buffer"][0]):
            unit = encoded.unit
            if is_committed(unit):
                counts = read_counts(unit.responses_uri, unit.view)
            else:
                with self.model(weights_of(unit)):
                    responses = answer(encoded, self.watched)
                metrics.committed(unit, responses)
                counts = counts_of(responses, unit.view)
            values = (unit.responses_uri, counts.text(), began_at, time.time())
            for name, value in zip(made, values, strict=True):
                made[name].append(value)
        return made

    def loaded(self, load: Callable[[], Result], weights: Weights) -> Result:
        """What `load` returns. Raises: WorkerSilent."""
        return loaded(load, self.load_s, f"an engine for {weights[0]}")

    @contextmanager
    def model(self, weights: Weights) -> Iterator[None]:
        """Units of one model run side by side. A unit of another model waits for them; then the engine loads its
        weights."""
        with self.turn:
            self.turn.wait_for(lambda: not self.num_running or self.weights == weights)
            if self.weights != weights:
                self.weights = None
                self.loaded(lambda: self.generator.switch(local_directory(weights[0])), weights)
                self.weights = weights
            self.num_running += 1
        try:
            yield
        finally:
            with self.turn:
                self.num_running -= 1
                self.turn.notify_all()
