"""generate: prompts x view -> the artifact `responses/<model>/<prompts>/<view>`, one response per prompt.

The unit of work is (shard of prompts, view). Its response file is named after the shard and committed in one step. So
a retry or a second copy of the same task changes nothing, and a restart runs only the missing units.
Ray Data carries each unit as one block: CPU tasks read, augment and preprocess it; an actor pool answers and commits.
"""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import pyarrow.compute as pc
import ray
import tyro

from seva_ray.augmentations import CONTROLS, parse_view, temperature_of, undrawn
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.core.node_cache import local_directory
from seva_ray.core.records import Response
from seva_ray.core.shards import read_each
from seva_ray.core.storage import names_in, read_table
from seva_ray.engines import Decoding, Engine, FakeEngine, TransformersEngine, VllmEngine
from seva_ray.engines.units import UNITS_PER_CALL, Encoded, Unit, answer, encode
from seva_ray.runtime import metrics
from seva_ray.runtime.actors import rows_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.resources import GENERATION, Need, capacity, check_places, kind, nodes, options, total
from seva_ray.runtime.sizing import engines_at_once, gpus_each, num_engines
from seva_ray.stages.prepare import shard_name
from seva_ray.vlm.encoding import VICUNA_V1, Encoder
from seva_ray.vlm.models import Model, architecture
from seva_ray.vlm.views import Viewer

ROW_BYTES = 2 * 2**20
"""Memory to request per row when encoding images, in bytes. The pixels of one 336 px image take 1.35 MB."""
LEAST_BYTES = 512 * 2**20
"""Least memory to request for a unit, in bytes: even a small unit decodes each image at its full size."""

GenerationTask = tuple[Model, Artifact, str]
"""A model, the prompts that it answers, and the view in which it sees their images."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How responses are generated."""

    kind: ClassVar[str] = "Generate"

    engine: Annotated[VllmEngine | TransformersEngine | FakeEngine, tyro.conf.AvoidSubcommands] = field(
        default_factory=VllmEngine
    )
    """The engine that runs the model. The preset chooses which one."""
    decoding: Decoding = field(default_factory=Decoding)
    """How responses are decoded; the same for every view."""
    system: str = VICUNA_V1
    """System text before the question (empty: none). Training uses the same text."""
    seed: int = 0
    """Seed of the augmentations. Each random draw follows from it, the prompt_id and the view."""
    min_engines: int = execution(1)
    """Smallest number of engine replicas."""
    max_engines: int | None = execution(None)
    """Largest number of engine replicas, to which the pool grows if the cluster has room or can add nodes. None means
    as many as the cluster has GPUs for; without GPUs it means one, or one for each `generation` that nodes declare."""
    units_per_engine: int = execution(2)
    """Units that an engine works on at once. With 2 the engine stays busy while the last answers of a unit finish."""
    max_image_pixels: int = 64_000_000
    """Largest number of pixels of an image, counted after padding to a square. A larger image is a `failed` row."""

    def __post_init__(self) -> None:
        for name in ("min_engines", "max_engines"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.max_engines is not None and self.min_engines > self.max_engines:
            raise ConfigError(f"min_engines {self.min_engines}: must be 1 to max_engines {self.max_engines}")
        if self.units_per_engine < 1:
            raise ConfigError(f"units_per_engine {self.units_per_engine}: must be at least 1")


def generate(config: Generate, store: Store, model: Model, work: Sequence[tuple[Artifact, str]]) -> list[Artifact]:
    """One model's responses to each (prompts, view), in the order of `work`."""
    return generate_all(config, store, [(model, prompts, view) for prompts, view in work])


def generate_all(config: Generate, store: Store, work: Sequence[GenerationTask]) -> list[Artifact]:
    """The responses to each piece of work, in the order of `work`."""
    finished = {artifact.name: artifact for artifact in generated(config, store, work)}
    return [finished[name_of(*item)] for item in work]


def generated(config: Generate, store: Store, work: Sequence[GenerationTask]) -> Iterator[Artifact]:
    """Yield the responses to each piece of work, each once and as soon as they are complete.

    Models of one architecture share one pool of engines, which load the weights of one model after the other.
    """
    pools: dict[str, list[Unit]] = {}
    begun: dict[str, tuple[Artifact, Artifact]] = {}
    num_missing: Counter[str] = Counter()
    for model, prompts, view in {name_of(*item): item for item in work}.values():
        artifact = open_responses(config, store, model, prompts, view)
        missing = [] if artifact.complete else missing_units(model, prompts, view, artifact)
        if missing:
            pools.setdefault(architecture(model.directory), []).extend(missing)
            begun[artifact.uri], num_missing[artifact.uri] = (prompts, artifact), len(missing)
        else:
            yield metrics.reused(artifact) if artifact.complete else finish_responses(prompts, artifact)
    names = {model.directory: model.name for model, _, _ in work}
    for units in pools.values():
        of_pool = dict.fromkeys(names[unit.model_directory] for unit in units)
        say(f"generate with {', '.join(of_pool)}: {len(units):,} units to do")
        for uri in run_units(config, units):
            num_missing[uri] -= 1
            if not num_missing[uri]:
                yield finish_responses(*begun[uri])


def name_of(model: Model, prompts: Artifact, view: str) -> str:
    return f"responses/{model.name}/{prompts.name.removeprefix('prompts/')}/{view}"


def open_responses(config: Generate, store: Store, model: Model, prompts: Artifact, view: str) -> Artifact:
    """The artifact of these responses. The clean view's recipe leaves out the seed, so that all seeds share it."""
    augmentation = parse_view(view)
    recipe = {
        "model": model.fingerprint,
        "engine": config.engine,
        "decoding": config.decoding,
        "system": config.system,
        "max_image_pixels": config.max_image_pixels,
        "augmentation": augmentation and {"seed": config.seed, "augmentation": augmentation},
    }
    if view in CONTROLS:
        recipe["control"] = view
    if undrawn(view) != view:
        recipe["draw"] = view
    if temperature_of(view) is not None:
        recipe["sampled"] = undrawn(view)
    return store.open(name_of(model, prompts, view), config=recipe, inputs=[prompts])


def missing_units(model: Model, prompts: Artifact, view: str, artifact: Artifact) -> list[Unit]:
    done = names_in(artifact.uri)
    claimed = json.dumps({"name": artifact.name, "uri": artifact.uri, "recipe": artifact.recipe})
    return [
        Unit(
            model=model.name,
            model_directory=model.directory,
            prompts_uri=prompts.path(name),
            responses_uri=artifact.path(name),
            view=view,
            image_root=prompts.counts["image_root"],
            num_rows=rows_per_unit(prompts),
            artifact=claimed,
        )
        for name in map(shard_name, range(prompts.counts["num_shards"]))
        if name not in done
    ]


def rows_per_unit(prompts: Artifact) -> int:
    """The largest number of rows in one unit."""
    return min(prompts.counts["num_prompts"], prompts.recipe["config"]["prepare"]["shard_size"])


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
    """The row that UnitWorker returns for each unit that it has committed. In Ray Data a unit is the only row of a
    block, and so one task."""
    join()
    need = encoding_need(max(unit.num_rows for unit in units))
    check_engines(config, need)
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
                fn_constructor_args=(config.engine, config.decoding, units[0].model_directory),
            )
        )
    )


def engine_need(config: Generate) -> dict[str, float]:
    """The resources that one engine takes of its node."""
    gpus = gpus_each(config, capacity())
    return {"CPU": 1, "GPU": gpus} | kind(GENERATION, max(1, gpus))


def encoding_need(num_rows: int) -> dict[str, float]:
    """The resources that a task takes of its node to encode a unit of `num_rows` rows."""
    return {"CPU": 1, "memory": max(LEAST_BYTES, num_rows * ROW_BYTES)}


def check_engines(config: Generate, encoding: Mapping[str, float]) -> None:
    """Raises: InputError if the cluster has no room for the engines, or for a task that encodes their units."""
    sharding = "--generate.engine.tensor-parallel-size"
    engines = Need(
        "an engine",
        config.min_engines,
        engine_need(config),
        fewer="--generate.min-engines",
        smaller={"GPU": sharding, GENERATION: sharding} if config.engine.gpus > 1 else {},
    )
    smaller = {"memory": "--prepare.shard-size"} if encoding["memory"] > LEAST_BYTES else {}
    check_places(engines, Need("what encodes images", 1, encoding, smaller=smaller))


@lru_cache(maxsize=8)
def encoder(engine: Engine, directory: str, system: str) -> Encoder:
    """The encoder of a model, made once per worker process."""
    return engine.encoder(local_directory(directory), system)


@told()
def encode_unit(batch: dict[str, Any], config: Generate) -> dict[str, Any]:
    """The task of Ray Data that encodes the unit in the batch's only row."""
    unit = Unit(**json.loads(batch["unit"][0]))
    viewer = Viewer(
        encoder=encoder(config.engine, unit.model_directory, config.system),
        image_root=unit.image_root,
        max_pixels=config.max_image_pixels,
        seed=config.seed,
    )
    encoded = encode(unit, viewer)
    return {"header": [encoded.header()], "pixels": encoded.pixels[None]}


class UnitWorker:
    """The actor of Ray Data that holds an engine with a loaded model, answers units and commits them."""

    @told()
    def __init__(self, engine: Engine, decoding: Decoding, directory: str):
        self.generator = engine.load(local_directory(directory), decoding)
        metrics.watch(self.generator)
        self.directory = directory
        self.num_running = 0
        self.turn = threading.Condition()

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began_at = time.time()
        encoded = Encoded.of(batch["header"][0], batch["pixels"][0])
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


def finish_responses(prompts: Artifact, artifact: Artifact) -> Artifact:
    """Complete the artifact once all units are committed, and count how the responses ended."""
    counts = Counter({"num_responses": 0, "num_tokens": 0})
    paths = [artifact.path(shard_name(index)) for index in range(prompts.counts["num_shards"])]
    for of_shard in read_each(count_responses, paths):
        counts.update(of_shard)
    return artifact.finish(counts)


def count_responses(uri: str) -> dict[str, int]:
    shard = read_table(uri, columns=["finish_reason", "token_ids"])
    num_tokens = pc.sum(pc.list_value_length(shard["token_ids"])).as_py() or 0
    reasons = {f"num_{item['values']}": item["counts"] for item in pc.value_counts(shard["finish_reason"]).to_pylist()}
    return {"num_responses": len(shard), "num_tokens": num_tokens} | reasons


def read_responses(prompts: Artifact, artifact: Artifact) -> Iterator[Response]:
    """All responses, in the prompts' order."""
    paths = [artifact.path(shard_name(index)) for index in range(prompts.counts["num_shards"])]
    for shard in read_each(read_table, paths):
        for row in shard.to_pylist():
            yield Response(**row)
