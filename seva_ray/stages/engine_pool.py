"""engine_pool: units -> files of responses. CPU tasks read, augment and preprocess the units. A pool of actors, each of
which holds an engine, answers and commits them. In Ray Data, all units of one shard are the only row of a block, and so
one task: its images are read and resized once for all views.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from PIL import Image

from seva_ray.augmentations import CLEAN, changes_image
from seva_ray.core.errors import InputError, UserError
from seva_ray.core.outlines import local_outline
from seva_ray.engines import VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import Counts
from seva_ray.engines.units import UNITS_PER_CALL, Unit
from seva_ray.engines.vllm_models import check_architecture, check_attention
from seva_ray.planning.memory import engine_refusal, sequences_held
from seva_ray.runtime import preflight
from seva_ray.runtime.cluster import join
from seva_ray.runtime.kept_engines import ListLost, PoolSettings, engines
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.resources import (
    GENERATION,
    Need,
    capacity,
    check_places,
    has_gpus,
    is_one_node,
    kind,
    nodes,
    options,
    total,
)
from seva_ray.runtime.sizing import MOST_ENGINES, engines_at_once, gpus_each, num_engines
from seva_ray.stages.cpu_memory import engines_held
from seva_ray.stages.engine_watch import MOST_POOLS, given_up, silence_within
from seva_ray.stages.unit_worker import UnitWorker, encode_units, encoder_of, task_of, weights_of
from seva_ray.vlm.model_shape import PHOTOGRAPH, shape_of
from seva_ray.vlm.models import architecture

ROW_BYTES = 2**19
"""Memory to request per image if the model is not known, in bytes. The levels of one 336 px image take 0.34 MB."""

TASK_BYTES = 512 * 2**20
"""Memory to request for a task that encodes images, beside its rows, in bytes. It decodes one image after the other,
each at its full size: a photograph of 64 megapixels takes 192 MB, and as much again for each copy."""


def run_units(config: Generate, units: Sequence[Unit]) -> Iterator[tuple[Unit, Counts]]:
    """Run all units through one pool of engines. Yield each unit after it is committed, with its counts."""
    progress = Progress("generate", len(units), "units")
    num_rows = 0
    for portion in portions(by_shard(units)):
        of_uri = {unit.responses_uri: unit for units in portion for unit in units}
        for row in commits(config, portion):
            counts = Counts.of(row["counts"])
            num_rows += counts.numbers["num_responses"]
            progress.add(1, note=f", {num_rows:,} responses")
            yield of_uri[row["responses_uri"]], counts


def by_shard(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units that one task encodes: one shard for one model, in all views in which it is to be answered."""
    found: dict[tuple[Any, ...], list[Unit]] = {}
    for unit in units:
        found.setdefault((unit.model_directory, unit.prompts_uri, unit.system, unit.image_root), []).append(unit)
    return list(found.values())


def split(shards: Sequence[Sequence[Unit]], at_least: int) -> list[Sequence[Unit]]:
    """The shards, with the views of each in several parts if there are fewer than `at_least`, to keep all engines
    busy."""
    num_parts = math.ceil(at_least / len(shards))
    sizes = [math.ceil(len(units) / num_parts) for units in shards]
    return [
        units[at : at + size] for units, size in zip(shards, sizes, strict=True) for at in range(0, len(units), size)
    ]


def portions(shards: Sequence[list[Unit]]) -> Iterator[list[list[Unit]]]:
    """The shards for one Ray Data job after the other, each with at most UNITS_PER_CALL units if a shard has fewer."""
    portion: list[list[Unit]] = []
    num_units = 0
    for units in shards:
        if portion and num_units + len(units) > UNITS_PER_CALL:
            yield portion
            portion, num_units = [], 0
        portion.append(units)
        num_units += len(units)
    yield portion


def commits(config: Generate, shards: Sequence[Sequence[Unit]]) -> Iterator[dict[str, Any]]:
    """The row that UnitWorker returns for each unit that it has committed. `shards`: the units of each shard."""
    join()
    shards = split(shards, 2 * config.units_per_engine * num_engines(config, capacity()))
    most = max(map(num_encoded, shards))
    return answered(config, shards[0][0], most, shards, len(shards), sum(map(len, shards)))


def answered(
    config: Generate, first: Unit, most: int, shards: Iterable[Sequence[Unit]], num_shards: int, num_units: int
) -> Iterator[dict[str, Any]]:
    """The same for shards that are drawn when they are due. `first`: one of the units. `most`: the largest number of
    images that are encoded for a shard. `num_shards` and `num_units`: how many there are, as far as is known."""
    import ray.data

    if isinstance(config.engine, VllmEngine):
        check_architecture(local_outline(first.model_directory))
        reads = encoder_of(config, first)
        check_attention(reads, on_cpu=not gpus_each(config, capacity()))
    there = capacity()
    need = encoding_need(most, row_bytes(config, first))
    check_engines(config, need)
    check_memory(config, first.model_directory)
    # Ray Data adds engines one by one, each when all before it are loaded and busy, and ends those that wait for units.
    at_once = min(engines_at_once(config, there, total(nodes())), math.ceil(num_shards / config.units_per_engine))
    largest = config.max_engines or num_engines(config, there)

    def commits_of(tasks: Any) -> Any:
        held = engines_held(config, first.model_directory, largest)
        return tasks.map_batches(
            encode_units,
            batch_size=1,
            fn_kwargs={"config": config},
            **options(need),  # with the engines' resources, Ray Data would run this inside the engine actors
        ).map_batches(
            UnitWorker,
            batch_size=1,
            batch_format="numpy",
            **options(engine_takes(config)),
            compute=ray.data.ActorPoolStrategy(
                min_size=min(held, max(config.min_engines, at_once)),
                max_size=held,
                # Half of these units wait at the actor. So the pool grows, and pixels arrive in time.
                max_tasks_in_flight_per_actor=2 * config.units_per_engine,
                max_concurrent_calls_per_actor=config.units_per_engine,
                enable_true_multi_threading=True,
            ),
            fn_constructor_args=(
                config.engine,
                config.decoding,
                weights_of(first),
                config.image_options,
                config.silent_s,
                config.load_s,
            ),
        )

    settings = PoolSettings(
        alike=(config, architecture(first.model_directory)),
        encoding_memory=need["memory"],
        engines=Need("an engine", largest, engine_takes(config)),
        most_tasks=4 * config.units_per_engine * largest + 2 * int(min(there.get("CPU", 0), MOST_ENGINES)),
        most_units=UNITS_PER_CALL,
    )
    yield from pooled(settings, commits_of, shards, num_units)


def pooled(
    settings: PoolSettings, commits_of: Callable[[Any], Any], shards: Iterable[Sequence[Unit]], num_units: int
) -> Iterator[dict[str, Any]]:
    """The row of each unit once. If a pool ends because the list of its tasks is lost, or because an engine computes
    nothing any more, the next one makes the rest. Raises: UserError if the last one has a silent engine too."""
    to_come, left = iter(shards), dict[str, Unit]()

    def tasks() -> Iterator[tuple[str, int]]:
        for units in chain(by_shard(list(left.values())), to_come):
            left.update((unit.responses_uri, unit) for unit in units)
            yield task_of(units)["units"], len(units)

    for number in range(MOST_POOLS):
        try:
            with engines(settings, commits_of, num_units) as pool:
                for row in pool.answered(tasks()):
                    del left[row["responses_uri"]]
                    yield row
            return
        except ListLost:
            if number + 1 == MOST_POOLS:
                raise
            say("generate: the process that deals out the units has ended; new engines make the rest")
        except Exception as error:
            if (silence := silence_within(error)) is None:
                raise
            if number + 1 == MOST_POOLS:
                raise UserError(given_up("generate", silence, number, oldest(left.values()))) from None
            say(f"generate: {silence}; new engines make the rest")


def oldest(units: Iterable[Unit]) -> str:
    """A sentence about the first two of the units that are left."""
    named = " and ".join(f"{unit.prompts_uri} in the view {unit.view}" for unit in islice(units, 2))
    return f"the oldest units without an answer are {named}"


def engine_need(config: Generate) -> dict[str, float]:
    """The resources that one engine takes of its node."""
    gpus = gpus_each(config, capacity())
    return {"CPU": 1, "GPU": gpus} | kind(GENERATION, max(1, gpus))


def engine_takes(config: Generate) -> dict[str, float]:
    """The resources that Ray counts for an engine. On a single machine without GPUs it takes no CPU: it computes on all
    of them whenever it has work, and while it waits, the job's other stages need them."""
    need = engine_need(config)
    return need | ({"CPU": 0} if is_one_node() and not has_gpus() else {})


def row_bytes(config: Generate, unit: Unit) -> float:
    """Memory to request per row and image, in bytes: what travels of a photograph."""
    row = encoder_of(config, unit).raw("", Image.new("RGB", PHOTOGRAPH))
    return sum(values.nbytes for values in row.features.values())


def encoding_need(num_rows: int, bytes_each: float = ROW_BYTES) -> dict[str, float]:
    """The resources that a task takes of its node to encode `num_rows` images."""
    return {"CPU": 1, "memory": TASK_BYTES + num_rows * bytes_each}


def num_encoded(units: Sequence[Unit]) -> int:
    """Images that are encoded for these units of one shard. Views that do not change the image share it."""
    return units[0].num_rows * len({unit.view if changes_image(unit.view) else CLEAN for unit in units})


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
    smaller = {"memory": "--prepare.shard-size"} if encoding["memory"] > 2 * TASK_BYTES else {}
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
