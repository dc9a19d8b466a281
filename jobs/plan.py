"""Says what a run will take, before money is spent -> a table, and `plans/<name>/plan.json` and `plan.png` under root.

    python jobs/plan.py llava-7b --num-prompts 10000000 --fleet.nodes 1 4 16 --rates.rows-per-s 5 --rates.start-s 180
    python jobs/plan.py llava-7b --model path/to/llava-1.5-7b-hf --probe.name h100     first times 64 rows, here

It takes the fields of jobs/full.py, and counts what is under root already as saved. A rate that is neither given nor
probed is unknown, and so is what follows from it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar

from presets import MODELS, TOY_GENERATE, TOY_TRAIN, USUAL, ModelJob
from seva_ray.augmentations import CLEAN, CONTROLS, parse_view
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.outlines import local_outline
from seva_ray.core.storage import exists, read_bytes, write_bytes
from seva_ray.dpo.config import Train
from seva_ray.engines import VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.pages.plan_page import Plan, picture_of, text_of
from seva_ray.pairs.files import GROUND_TRUTH
from seva_ray.planning.footprint import Sizes, demands, parts
from seva_ray.planning.forecast import forecast
from seva_ray.planning.memory import memory_lines, pipeline_line
from seva_ray.planning.prices import POOLS, read_prices
from seva_ray.planning.rates import Fleet, Rates, step_factor
from seva_ray.planning.simulation import Faults
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.runtime.progress import say
from seva_ray.runtime.sizing import num_workers
from seva_ray.stages.base_model import check_start, is_policy, is_toy, open_toy, recipe_of, starting_model
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.probe import Probe, probe
from seva_ray.stages.remaining_work import Run, remaining
from seva_ray.stages.training.worker import LOG
from seva_ray.vlm.model_shape import LLAVA_7B as LLAVA_7B_SHAPE
from seva_ray.vlm.model_shape import LLAVA_13B as LLAVA_13B_SHAPE
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import Model, found

Settings = TypeVar("Settings", Rates, Sizes)


class Found(NamedTuple):
    """A measured value."""

    value: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class PlanJob(ModelJob):
    """What a run will take."""

    name: str
    """Names the policy of the run, and the plan."""
    prompts: str
    """Names the prompt set."""
    model: str
    """The starting model. It must exist only if it is probed."""
    num_prompts: int | None = None
    """Number of prompts, if the prompt set is not prepared yet."""
    num_test_prompts: int = 0
    """Number of questions in all benchmarks. The starting model and the policy answer each of them."""
    views: tuple[str, ...] = ("diffusion-500",)
    """The rejected views, as in jobs/full.py."""
    chosen: Literal["clean", "ground-truth", "contrast"] = "clean"
    """The chosen answers, as in jobs/full.py: the data set's own take no time. That of contrast is not known."""
    controls: tuple[str, ...] = ()
    """Views that measure the engine's rounding."""
    probe: Probe = field(default_factory=Probe)
    rates: Rates = field(default_factory=Rates)
    """Rates of the run. A rate that is given here replaces a probed one."""
    sizes: Sizes = field(default_factory=Sizes)
    policy: str = ""
    """A policy of this root that was trained by the same settings on the same machines: its log says how long a step
    takes."""
    fleet: Fleet = field(default_factory=Fleet)
    faults: Faults = field(default_factory=Faults)
    prices: str = ""
    """A TOML file: for each pool (generation, training, cpu) the price of a node-hour, on_demand, spot or both."""
    spot: tuple[str, ...] = ()
    """Pools whose nodes have the spot price."""
    source_files: int = 1
    """Number of files of a source:table, which tasks read at the same time. Other sources are read by the driver."""
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    pair: Pair = field(default_factory=Pair)
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        augmented = [view for view in self.views if (self.chosen, view) != (GROUND_TRUTH, CLEAN)]
        if not self.views or any(parse_view(view) is None for view in augmented):
            raise ConfigError(f"views {' '.join(self.views)}: at least one, and all augmented ones")
        for control in self.controls:
            if control not in CONTROLS:
                raise ConfigError(f"control {control}: must be one of {', '.join(CONTROLS)}")
        check_least(self, 1, "num_prompts", "source_files")
        check_least(self, 0, "num_test_prompts")
        for pool in self.spot:
            if pool not in POOLS:
                raise ConfigError(f"spot {pool}: must be among {', '.join(POOLS)}")


def main(config: PlanJob) -> Plan:
    store = Store(config.root)
    prices = read_prices(config.prices) if config.prices else None
    if found(config.model):
        check_start(store, config.model, config.generate.image_options)
    prompts = prepared(config, store)
    measured = probed(config, store, prompts) | stepped(config, store)
    rates, sizes, origins = settled(config, measured)
    model = present(config, store) if prompts else None
    work = remaining(run_of(config), store, model, prompts, config.num_prompts or 0)
    forecasts = [forecast(work, rates, config.fleet, config.faults, nodes) for nodes in config.fleet.nodes]
    last = forecasts[-1]
    num_starts = last.generation.num_starts if last.generation else last.num_nodes
    plan = Plan(
        name=config.name,
        work=work,
        origins=origins,
        forecasts=forecasts,
        parts=parts(work, rates, sizes, config.train.full, num_starts),
        demands=demands(work, rates, sizes, config.train.full, last),
        memory=memory(config),
        currency=prices.currency if prices else "",
        costs=[prices.cost(item.node_hours, config.spot) for item in forecasts] if prices else [],
    )
    print(text_of(plan))
    place, about = store.uri(f"plans/{config.name}"), {"rates": asdict(rates), "sizes": asdict(sizes)}
    write_bytes(f"{place}/plan.json", json.dumps({"config": asdict(config)} | about | asdict(plan), indent=1).encode())
    if picture := picture_of(plan):
        write_bytes(f"{place}/plan.png", picture)
    say(f"plan: {place}/plan.json")
    return plan


def run_of(config: PlanJob) -> Run:
    return Run(
        name=config.name,
        views=config.views,
        controls=config.controls,
        chosen=config.chosen,
        shard_size=config.prepare.shard_size,
        source_files=config.source_files,
        num_test_prompts=config.num_test_prompts,
        generate=config.generate,
        pair=config.pair,
        train=config.train,
        for_training=config.fleet.one_node(),
    )


def memory(config: PlanJob) -> list[str]:
    """What a run takes of a GPU's memory, if the model's sizes are known and there are GPUs."""
    model, known = config.model, {"llava-1.5-7b-hf": LLAVA_7B_SHAPE, "llava-1.5-13b-hf": LLAVA_13B_SHAPE}
    shape = known.get(model.rstrip("/").rpartition("/")[2])
    if not is_toy(model) and not is_policy(model) and (place := found(model)):
        shape = shape_of(local_outline(place), config.generate.image_options)
    regeneration, gib = config.generate.regeneration, config.fleet.gpu_gib
    pipeline = [pipeline_line(regeneration.pipeline, regeneration.dtype, gib)] if regeneration.pipeline else []
    if shape is None or not config.fleet.gpus_per_node:
        return pipeline if config.fleet.gpus_per_node else []
    engine = config.generate.engine if isinstance(config.generate.engine, VllmEngine) else None
    workers = num_workers(config.train, config.fleet.one_node())
    return pipeline + memory_lines(shape, config.train, workers, engine, config.generate.decoding.max_new_tokens, gib)


def prepared(config: PlanJob, store: Store) -> Artifact | None:
    """The prompts if they are prepared. Raises: ConfigError if they are not, and their number is not given."""
    name = f"prompts/{config.prompts}"
    if not exists(f"{store.uri(name)}/record.json"):
        if config.num_prompts is None:
            raise ConfigError(f"num_prompts: {name} is not in {store.root} yet; give --num-prompts")
        return None
    prompts = store.find(name)
    if config.num_prompts not in (None, prompts.counts["num_prompts"]):
        there = prompts.counts["num_prompts"]
        raise ConfigError(f"num_prompts {config.num_prompts}: {name} is in {store.root} already, with {there}")
    return prompts


def present(config: PlanJob, store: Store) -> Model | None:
    """The starting model if it exists."""
    if is_toy(config.model):
        there = open_toy(store, recipe_of(config.toy, config.model)).complete
    else:
        there = is_policy(config.model) or found(config.model) is not None
    return starting_model(store, config.model, config.toy) if there else None


def probed(config: PlanJob, store: Store, prompts: Artifact | None) -> dict[str, Found]:
    """What the probe measured. It runs now if it has not run. Raises: InputError if there is nothing to probe with."""
    if not config.probe.name:
        return {}
    if prompts is None:
        raise InputError(f"probe {config.probe.name}: needs prompts/{config.prompts}, which jobs/prepare.py makes")
    check_start(store, config.model, config.generate.image_options)
    store.check_writable()
    model, views = starting_model(store, config.model, config.toy), (CLEAN, *config.views)
    with cluster():
        made = probe(config.probe, config.generate, config.pair, store, model, prompts, views)
    place = f"{made.name} ({made.counts['num_rows']:,} responses)"
    return {name: Found(value, place) for name, value in made.counts.items() if name != "num_rows"}


def stepped(config: PlanJob, store: Store) -> dict[str, Found]:
    """Seconds of a training step, from the log of a policy, whose loss may have had other image terms."""
    if not config.policy:
        return {}
    policy = store.find(config.policy)
    trained, last = policy.recipe["config"]["train"], json.loads(read_bytes(policy.path(LOG)))[-1]
    longer = step_factor(asdict(config.train.loss)) / step_factor(trained.get("loss", {}))
    step_s = longer * trained["global_batch_size"] / last["train_samples_per_second"]
    return {"step_s": Found(round(step_s, 4), policy.name)}


def settled(config: PlanJob, measured: Mapping[str, Found]) -> tuple[Rates, Sizes, dict[str, str]]:
    """Rates and sizes, and the source of each. A given one replaces a measured one."""
    origins: dict[str, str] = {}

    def fill(given: Settings) -> Settings:
        names = [item.name for item in fields(given)]
        missing = {name: measured[name].value for name in names if name in measured and getattr(given, name) is None}
        origins.update({name: "the command or its preset" for name in names if getattr(given, name) is not None})
        origins.update({name: measured[name].place for name in missing})
        return replace(given, **missing)

    return fill(config.rates), fill(config.sizes), origins


TOY = PlanJob(
    name="toy",
    prompts="toy",
    model="toy",
    views=("diffusion-300",),
    controls=CONTROLS,
    fleet=Fleet(gpus_per_node=0, cpus_per_node=2),
    sizes=Sizes(image_bytes=0, weight_bytes=4),
    generate=TOY_GENERATE,
    train=TOY_TRAIN,
)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, name="toy-qwen", model="toy-qwen"),
    **{
        name: PlanJob(
            name=name,
            prompts="llava-mix",
            model=of.model,
            views=(of.view,),
            generate=of.generate,
            pair=of.pair,
            train=of.train,
            sizes=Sizes(
                pixel_bytes=of.pixel_bytes, model_bytes=of.model_bytes, trained_parameters=of.trained_parameters
            ),
        )
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Say what a run will take, before money is spent.", USUAL)
