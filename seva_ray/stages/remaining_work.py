"""remaining_work: the work that is left for a run, found by the stages' own artifact names and recipes.

In: what a job would be given. Out: the work that is left for it. Nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seva_ray.augmentations import CLEAN
from seva_ray.augmentations.ladder import views_below
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import exists
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.planning.work import Pass, RemainingWork, units_of
from seva_ray.runtime.resources import Amounts
from seva_ray.runtime.sizing import num_workers
from seva_ray.stages.generate import missing_units, open_responses, responses_name
from seva_ray.stages.pair import Pair, open_pairs
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.regenerate import images_left
from seva_ray.stages.training.reference import open_logps
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings that a job would be given."""

    name: str
    views: Sequence[str]
    """Views of the rejected responses."""
    controls: Sequence[str]
    chosen: str = CLEAN
    """View of the chosen responses. Those of the data set take no time."""
    shard_size: int
    source_files: int = 1
    """Number of files of the source that tasks read at the same time."""
    num_test_prompts: int
    generate: Generate
    pair: Pair
    train: Train
    for_training: Amounts
    """What the nodes for training have of each resource."""


def remaining(run: Run, store: Store, model: Model | None, prompts: Artifact | None, num_prompts: int) -> RemainingWork:
    """The work left. `model` and `prompts` are None if they do not exist yet; then `num_prompts` is used instead of the
    prompts' own count. `store` is only read.

    Raises: FingerprintMismatch if a stage would raise it.
    """
    shard_size = run.shard_size
    if prompts:
        num_prompts, shard_size = prompts.counts["num_prompts"], prompts.recipe["config"]["prepare"]["shard_size"]
    clean = [CLEAN] if run.chosen == CLEAN or run.controls else []
    seen = (each for view in run.views for each in (*views_below(view), view))
    views = tuple(dict.fromkeys((*clean, *seen, *run.controls)))
    passes = {view: whole(view, num_prompts, shard_size) for view in views}
    pairs: Artifact | None = None
    trained = False
    unscored = len({False, run.train.loss.reads_view})
    if model and prompts:
        opened = {view: open_responses(run.generate, store, model, prompts, view) for view in views}
        passes |= {view: left(model, prompts, view, opened[view], passes[view]) for view in views}
        rejected = [opened[view] for view in run.views]
        name = responses_name(model, prompts, run.chosen)
        if run.chosen == CLEAN:
            pairs = open_pairs(run.pair, store, prompts, opened[CLEAN], rejected)
        elif exists(store.uri(f"{name}/record.json")):
            pairs = open_pairs(run.pair, store, prompts, store.find(name), rejected)
    if model and pairs and pairs.complete:
        on_views = {False, run.train.loss.reads_view}
        unscored = sum(not open_logps(run.train, store, model, pairs, on_view=each).complete for each in on_views)
        trained = Training(config=run.train, name=run.name, model=model, pairs=pairs).open(store).complete
    tests = [whole("benchmarks", run.num_test_prompts, shard_size)] if run.num_test_prompts else []
    return RemainingWork(
        num_prompts=num_prompts,
        shard_size=shard_size,
        num_rejected=len(run.views),
        passes=[*passes.values(), *tests],
        tests=[unit for item in tests for unit in item.left],
        gpus_per_engine=run.generate.engine.gpus,
        units_per_engine=run.generate.units_per_engine,
        num_workers=num_workers(run.train, run.for_training),
        global_batch_size=run.train.global_batch_size,
        num_repeats=run.train.num_repeats,
        most_pairs=run.train.num_pairs,
        num_kept=pairs.counts["verdicts"]["kept"] if pairs and pairs.complete else None,
        prepared=prompts is not None,
        num_images=sum(images_left(run.generate, store, prompts, view, num_prompts) for view in run.views),
        paired=pairs is not None and pairs.complete,
        scored=not unscored or trained,
        source_files=run.source_files,
        num_references=unscored,
        trained=trained,
    )


def whole(name: str, num_prompts: int, shard_size: int) -> Pass:
    units = units_of(num_prompts, shard_size)
    return Pass(name=name, num_rows=num_prompts, num_units=sum(count for count, _ in units), left=units)


def left(model: Model, prompts: Artifact, view: str, responses: Artifact, every: Pass) -> Pass:
    """The pass without the units whose responses exist already."""
    if responses.complete:
        return replace(every, left=[])
    shards = {unit.prompts_uri for unit in missing_units(model, prompts, view, responses)}
    last = prompts.path(shards_of(prompts)[-1])
    shard_size = prompts.recipe["config"]["prepare"]["shard_size"]
    rest = every.num_rows - (every.num_units - 1) * shard_size
    units = [(len(shards - {last}), shard_size), (len(shards & {last}), rest)]
    return replace(every, left=[run for run in units if run[0]])
