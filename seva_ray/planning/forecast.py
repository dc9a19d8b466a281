"""What a run will take, stage by stage: wall time, hours of GPUs and CPUs, hours of nodes.

In: the work that is left, how fast each part of it goes, and the cluster. Out: a forecast for a number of nodes.
A rate that nobody knows is named and never guessed: without the seconds of a step, there is no time of training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seva_ray.core.errors import ConfigError
from seva_ray.engines.units import ENGINES_PER_DRIVER, UNITS_PER_CALL, UNITS_PER_DRIVER
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.planning.simulation import Crew, Faults, SimulatedRun, Units, simulate
from seva_ray.planning.work import RemainingWork, num_rows


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The forecast of one stage. If some rates are unknown, which `unknown` names, the numbers are lower bounds."""

    name: str
    work: str
    wall_s: float = 0.0
    driver_s: float = 0.0
    """The part of `wall_s` in which the driver works alone and no node is needed."""
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast of a run with a number of nodes for engines."""

    num_nodes: int
    num_engines: int
    rows_per_s: float | None
    """Rows per second of one engine in this cluster."""
    slowed_by_encoding: bool
    ideal_s: float | None
    """Time of the base model's units if all engines were ready at once and worked until the end, in s."""
    generation: SimulatedRun | None
    """The base model's units, as simulated."""
    stages: Sequence[Stage]
    node_hours: Mapping[str, float]
    """Hours of nodes by pool."""

    @property
    def total(self) -> Stage:
        """All stages as one."""
        sums = {
            name: sum(getattr(stage, name) for stage in self.stages)
            for name in ("wall_s", "driver_s", "gpu_hours", "cpu_hours")
        }
        unknown = tuple(dict.fromkeys(name for stage in self.stages for name in stage.unknown))
        return Stage(name="total", work="", unknown=unknown, **sums)


def forecast(work: RemainingWork, rates: Rates, fleet: Fleet, faults: Faults, num_nodes: int) -> Forecast:
    """The forecast for a number of nodes. Raises: ConfigError if the cluster cannot do the work."""
    per_node = fleet.engines_per_node(work.gpus_per_engine)
    speed = encoding_speed(rates, fleet, num_nodes, per_node * num_nodes)
    rows_per_s = rates.rows_per_s and min(rates.rows_per_s, speed)
    outcome: SimulatedRun | None = None
    tested: SimulatedRun | None = None
    if rows_per_s:
        outcome, tested = (
            simulate(
                units,
                Crew(
                    num_nodes=num_nodes,
                    engines_per_node=per_node,
                    rows_per_s=rows_per_s,
                    start_s=rates.start_s or 0.0,
                    units_ahead=2 * work.units_per_engine,
                    units_per_s=rates.commits_per_s and rates.commits_per_s * num_drivers(units, per_node * num_nodes),
                ),
                faults,
            )
            for units in (work.units, work.tests)
        )
    prepared = prepare(work, rates, fleet.cpus(num_nodes))
    generated, evaluated = (
        generation(name, units, work, rates, fleet, made, num_drivers(units, per_node * num_nodes))
        for name, units, made in (("generate", work.units, outcome), ("evaluate", work.tests, tested))
    )
    paired = pair(work, rates, fleet.cpus(num_nodes))
    trained = [reference(work, rates, fleet), train(work, rates, fleet)]
    made = [regenerate(work, rates, fleet, num_nodes)] if work.num_images else []
    on_nodes = sum(item.engine_s / per_node for item in (outcome, tested) if item) + num_nodes * busy(*made)
    return Forecast(
        num_nodes=num_nodes,
        num_engines=per_node * num_nodes,
        rows_per_s=rows_per_s,
        slowed_by_encoding=rows_per_s == speed,
        ideal_s=rows_per_s and num_rows(work.units) / (rows_per_s * per_node * num_nodes),
        generation=outcome,
        stages=[prepared, *made, generated, paired, *trained, evaluated],
        node_hours={
            # Without CPU nodes, the nodes of the engines make the prompts and the pairs too.
            "generation": (on_nodes + (0 if fleet.cpu_nodes else num_nodes * busy(prepared, paired))) / 3600,
            "training": fleet.training_nodes(work.num_workers) * busy(*trained) / 3600,
            "cpu": fleet.cpu_nodes * busy(prepared, generated, paired, evaluated) / 3600,
        },
    )


def busy(*stages: Stage) -> float:
    """Seconds in which a stage needs its nodes."""
    return sum(stage.wall_s - stage.driver_s for stage in stages)


def encoding_speed(rates: Rates, fleet: Fleet, num_nodes: int, num_engines: int) -> float:
    """Rows/s that the cluster's other CPUs encode for each engine."""
    spare = fleet.cpus(num_nodes) - num_engines
    if spare < 1:
        raise ConfigError(
            f"cpus_per_node {fleet.cpus_per_node}: the engines take all of them, so none is left to encode"
        )
    return math.inf if rates.encode_rows_per_s is None else rates.encode_rows_per_s * spare / num_engines


def num_drivers(units: Units, num_engines: int) -> int:
    """How many drivers make the units: the job's own, or several of parts, which each commit on their own."""
    alone = sum(count for count, _ in units) <= UNITS_PER_DRIVER
    return 1 if alone else math.ceil(num_engines / ENGINES_PER_DRIVER)


def prepare(work: RemainingWork, rates: Rates, num_cpus: int) -> Stage:
    """The driver reads the source, or a task for each of its files."""
    if work.prepared:
        return Stage(name="prepare", work="exists already")
    seconds, unknown = spent(rates, prepare_rows_per_s=work.num_prompts)
    tasks = min(work.source_files, num_cpus)
    return Stage(
        name="prepare",
        work=f"{work.num_prompts:,} prompts, " + ("in the driver" if tasks == 1 else f"by {tasks:,} tasks"),
        wall_s=seconds / tasks,
        driver_s=seconds if tasks == 1 else 0.0,
        cpu_hours=seconds / 3600,
        unknown=unknown,
    )


def regenerate(work: RemainingWork, rates: Rates, fleet: Fleet, num_nodes: int) -> Stage:
    """Images by a diffusion model, with one worker on each GPU, or on each node without GPUs."""
    seconds, unknown = spent(rates, regenerate_rows_per_s=work.num_images)
    workers = min(num_nodes * max(1, fleet.gpus_per_node), math.ceil(work.num_images / work.shard_size))
    hours = {"gpu_hours" if fleet.gpus_per_node else "cpu_hours": seconds / 3600}
    about = f"{work.num_images:,} images by {workers:,} workers"
    return Stage(name="regenerate", work=about, wall_s=seconds / workers, unknown=unknown, **hours)


def generation(
    name: str, units: Units, work: RemainingWork, rates: Rates, fleet: Fleet, outcome: SimulatedRun | None, drivers: int
) -> Stage:
    """Generation by engines while CPUs encode; at its end the driver reads every file for its digest. The engines of
    each of the `drivers` start anew after UNITS_PER_CALL units."""
    count, rows = sum(count for count, _ in units), num_rows(units)
    if not count:
        return Stage(name=name, work="nothing to do")
    finish_s, slow = spent(rates, read_files_per_s=count)
    encode_s, blind = spent(rates, encode_rows_per_s=rows)
    engine_hours = outcome.engine_s / 3600 if outcome else 0.0
    restarts = (math.ceil(count / drivers) - 1) // UNITS_PER_CALL
    return Stage(
        name=name,
        work=f"{count:,} units, {rows:,} responses",
        wall_s=(outcome.wall_s if outcome else 0.0) + restarts * (rates.start_s or 0.0) + finish_s,
        driver_s=finish_s,
        gpu_hours=engine_hours * work.gpus_per_engine if fleet.gpus_per_node else 0.0,
        cpu_hours=encode_s / 3600 + (0.0 if fleet.gpus_per_node else engine_hours),
        unknown=(*missing(rates, "rows_per_s", "start_s"), *blind, *slow),
    )


def pair(work: RemainingWork, rates: Rates, num_cpus: int) -> Stage:
    if work.paired:
        return Stage(name="pair", work="exists already")
    seconds, unknown = spent(rates, pair_rows_per_s=work.num_prompts * work.num_rejected)
    files = work.num_files(rates)
    read_s, slow = spent(rates, read_files_per_s=files)
    return Stage(
        name="pair",
        work=f"{work.num_prompts * work.num_rejected:,} comparisons, {files:,} files in the driver",
        wall_s=seconds / min(num_cpus, work.num_shards) + read_s,
        driver_s=read_s,
        cpu_hours=(seconds + read_s) / 3600,
        unknown=(*unknown, *slow),
    )


def reference(work: RemainingWork, rates: Rates, fleet: Fleet) -> Stage:
    if work.scored:
        return Stage(name="reference", work="exists already")
    if (kept := work.kept(rates)) is None:
        unknown = ("kept_share", *missing(rates, "reference_pairs_per_s"))
        return Stage(name="reference", work="pairs", unknown=unknown)
    seconds, unknown = spent(rates, reference_pairs_per_s=kept * work.num_references)
    files = work.num_files(rates)
    wall_s = seconds / min(work.num_workers, files)
    about = f"{kept:,} pairs in {files:,} files" + (", on two images each" if work.num_references > 1 else "")
    return on_workers("reference", about, wall_s, unknown, work, fleet)


def train(work: RemainingWork, rates: Rates, fleet: Fleet) -> Stage:
    if work.trained:
        return Stage(name="train", work="exists already")
    # The driver orders the pairs; workers read them. To choose some pairs, it reads the ids of all before.
    read_s, slow = spent(rates, read_files_per_s=(1 if work.most_pairs is None else 2) * work.num_files(rates))
    unknown = (*slow, *missing(rates, "train_start_s", "step_s"))
    if (steps := work.num_steps(rates)) is None:
        return Stage(name="train", work="steps", unknown=("kept_share", *unknown))
    about = f"{steps:,} steps of {work.global_batch_size:,} pairs by {work.num_workers:,} workers"
    on_gpus = on_workers(
        "train", about, steps * (rates.step_s or 0.0) + (rates.train_start_s or 0.0), unknown, work, fleet
    )
    return replace(
        on_gpus, wall_s=on_gpus.wall_s + read_s, driver_s=read_s, cpu_hours=on_gpus.cpu_hours + read_s / 3600
    )


def on_workers(
    name: str, about: str, wall_s: float, unknown: tuple[str, ...], work: RemainingWork, fleet: Fleet
) -> Stage:
    worker_hours = work.num_workers * wall_s / 3600
    kind = "gpu_hours" if fleet.gpus_per_node else "cpu_hours"
    return Stage(name=name, work=about, wall_s=wall_s, unknown=unknown, **{kind: worker_hours})


def spent(rates: Rates, **amounts: float) -> tuple[float, tuple[str, ...]]:
    """Seconds for amounts at the rates of their names, and the names of unknown rates, which count as 0 s."""
    known = {name: amount / getattr(rates, name) for name, amount in amounts.items() if getattr(rates, name)}
    return sum(known.values()), tuple(name for name in amounts if name not in known)


def missing(rates: Rates, *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if getattr(rates, name) is None)
