"""Trains several methods from the same base models on the same prompts -> one page, `comparisons/<name>`.

    python jobs/compare.py                                              the toy world: SeVa, four methods, four controls
    python jobs/compare.py --models toy-1 --methods seva seva+image     two methods from one base model
    python jobs/compare.py habits                                       toy bases that hallucinate, as docs/LOG.md says

Everything that several methods need is made once: answers, pairs, and the reference's log-probabilities. The same
command again reuses what is there; after a crash it goes on. docs/METHODS.md says what each method does.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import get_args

from presets import (
    LLAVA_MIX,
    MODELS,
    TOY_GENERATE,
    TOY_TRAIN,
    USUAL,
    ModelJob,
    prompts_of,
    settings_of,
)
from seva_ray.augmentations import CLEAN, parse_view
from seva_ray.benchmarks import Benchmark, Benchmarks
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.dpo.config import Train
from seva_ray.dpo.methods import METHODS, MethodName
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.sources import AnySource, ToyWorld
from seva_ray.stages.base_model import check_start, check_starts, starting_models
from seva_ray.stages.comparison import Compared, check_metrics, compare_methods
from seva_ray.stages.contrast import Contrast, with_scores
from seva_ray.stages.contrast_pairs import contrast_views, with_contrast
from seva_ray.stages.evaluate import compare, prepare_benchmarks
from seva_ray.stages.generate import generate_all, responses_name
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.training.failures import stop_if_diverged
from seva_ray.stages.training.group import check_training, check_training_memory
from seva_ray.stages.training.train import train_all
from seva_ray.stages.training.training import Training
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.vlm.models import Model, model_of

USUAL_METHODS: tuple[MethodName, ...] = tuple(
    name for name in get_args(MethodName) if METHODS[name].short_answers == "view"
)


@dataclass(frozen=True, kw_only=True)
class Compare(ModelJob):
    """A comparison of methods."""

    name: str
    """Names the comparison, and begins the names of its policies."""
    prompts: str = ""
    """Names the prompt set, as in jobs/full.py."""
    models: tuple[str, ...]
    """The base models: model directories, policies of this root, or toy bases: `toy-1`, `toy-2`, ..."""
    methods: tuple[MethodName, ...] = USUAL_METHODS
    """The methods and controls. Those of contrast need a model that answers yes and no wrongly often enough."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training: each method is trained once with each of them, from every base model."""
    source: AnySource
    """Where prompts come from."""
    views: tuple[str, ...]
    """The rejected view of the methods that do not have one of their own."""
    contrast: Contrast = field(default_factory=Contrast)
    """How the method contrast finds its chosen answers."""
    against: tuple[MethodName, ...] = ()
    """The methods that the others are compared with on the page. Empty: the first method."""
    metrics: tuple[str, ...]
    """The metrics on the page. The first one is the main one."""
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    pair: Pair = field(default_factory=Pair)
    train: Train = field(default_factory=Train)
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        for values, what in ((self.models, "models"), (self.methods, "methods"), (self.seeds, "seeds")):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{what}: at least one is needed, and each only once")
        for view in self.views or ("",):
            if parse_view(view) is None:
                raise ConfigError(f"view {view}: the rejected view must be an augmented one")
        for method in self.against:
            if method not in self.methods:
                raise ConfigError(f"against {method}: must be one of the methods, {', '.join(self.methods)}")
        for method in self.methods:
            settings_of(method, self.train, self.pair, self.views)


def main(config: Compare) -> None:
    config = replace(config, generate=with_scores(config.generate, config.contrast))
    store = config.store()
    check_starts(config.models, config.toy)
    for model in config.models:
        check_start(store, model, config.generate.image_options)
    benchmarks = config.benchmarks.chosen(config.generate.system)
    check_metrics(benchmarks, config.metrics)
    named = prompts_of(config.prompts, config.source, config.name, toy="toy-compare")
    prompts = prepare(config.prepare, store, named, config.source)
    tests = prepare_benchmarks(config.prepare, store, benchmarks)
    with cluster():
        bases = starting_models(store, config.models, config.toy)
        for base, method, seed in product(bases, config.methods, config.seeds):
            name, train = policy_name(config, base, method, seed), settings(config, method)[0]
            check_training(train, store, name)
            check_training_memory(train, store, name, base)
        # One pool of engines answers the training prompts in every view, and the benchmarks.
        views = dict.fromkeys(view for method in config.methods for view in views_of(config, method))
        work = [*((prompts, view) for view in views), *((test, CLEAN) for test in tests)]
        answers = answered(config, store, bases, work)
        trainings = {method: trainings_of(config, store, prompts, bases, method, answers) for method in config.methods}
        policies = train_all(store, [item for of_method in trainings.values() for rows in of_method for item in rows])
        for policy in policies:
            stop_if_diverged(policy)
        answers |= answered(config, store, [*map(model_of, policies)], [(test, CLEAN) for test in tests])
        made = {policy.name: policy for policy in policies}

        def scores(benchmark: Benchmark, test: Artifact, base: Model, policy: Artifact) -> Artifact:
            aligned = model_of(policy)
            before, after = (answers[responses_name(model, test, CLEAN)] for model in (base, aligned))
            return compare(config.evaluate, store, benchmark, test, before, after, aligned.name)

        compared = []
        for method, of_method in trainings.items():
            found = [[made[training.open(store).name] for training in rows] for rows in of_method]
            of_bases = list(zip(bases, found, strict=True))
            of_benchmarks = {
                benchmark.name: [[scores(benchmark, test, base, item) for item in row] for base, row in of_bases]
                for benchmark, test in zip(benchmarks, tests, strict=True)
            }
            compared.append(Compared(method=method, policies=found, scores=of_benchmarks))
    command = " ".join(["python", *sys.argv])
    names = ("source", "generate", "contrast", "pair", "train", "evaluate")
    shown = {key: identity(getattr(config, key)) for key in names}
    against = config.against or config.methods[:1]
    page = compare_methods(
        config.evaluate, store, config.name, benchmarks, compared, config.metrics, against, command, shown
    )
    print(page, flush=True)


def settings(config: Compare, method: MethodName) -> tuple[Train, Pair, tuple[str, ...]]:
    return settings_of(method, config.train, config.pair, config.views)


def views_of(config: Compare, method: MethodName) -> tuple[str, ...]:
    """The views in which a method needs the base models' answers."""
    return (CLEAN, *settings(config, method)[2], *contrast_views(method, config.contrast))


def policy_name(config: Compare, base: Model, method: MethodName, seed: int) -> str:
    return f"{config.name}-{base.name}-{method}-{seed}"


def answered(
    config: Compare, store: Store, models: Sequence[Model], work: Sequence[tuple[Artifact, str]]
) -> dict[str, Artifact]:
    """The responses of every model to all prompts and views, by the artifact's name."""
    made = generate_all(config.generate, store, [(model, *item) for model in models for item in work])
    return {artifact.name: artifact for artifact in made}


def trainings_of(
    config: Compare,
    store: Store,
    prompts: Artifact,
    bases: Sequence[Model],
    method: MethodName,
    answers: Mapping[str, Artifact],
) -> list[list[Training]]:
    """The policies of one method, for each base model one for each seed. The pairs that are missing are made."""
    train, of_pairs, views = settings(config, method)
    found = []
    for base in bases:
        seen = {view: answers[responses_name(base, prompts, view)] for view in views_of(config, method)}
        pairs = pair(of_pairs, store, prompts, seen[CLEAN], [seen[view] for view in views])
        pairs = with_contrast(
            method, config.contrast, of_pairs, config.generate, store, prompts, base, pairs, seen, train.num_pairs
        )
        names = {seed: policy_name(config, base, method, seed) for seed in config.seeds}
        found.append(
            [
                Training(config=replace(train, seed=seed), name=name, model=base, pairs=pairs)
                for seed, name in names.items()
            ]
        )
    return found


TOY = Compare(
    name="compare",
    models=("toy-1", "toy-2", "toy-3"),
    source=ToyWorld(num_images=300),
    views=("diffusion-500",),
    metrics=("POPE accuracy", "POPE F1", "POPE yes-ratio", "describe precision", "describe recall", "VQA accuracy"),
    generate=TOY_GENERATE,
    train=replace(TOY_TRAIN, num_pairs=500, num_workers=1, zero_stage=0, trackers=()),
    benchmarks=Benchmarks(toy_images=150),
)
HABITS = replace(
    TOY,
    name="habits",
    root="runs/habits",  # its toy bases have the names of others
    prompts="toy-habits",
    models=tuple(f"toy-{seed}" for seed in range(1, 7)),
    toy=ToyRecipe(habit_steps=50),
    methods=("seva", "anchor", "contrast", "seva+image", "contrast-turned"),
    against=("seva", "anchor"),
    contrast=Contrast(balanced=False),
    source=ToyWorld(num_images=900),
    metrics=(
        "POPE accuracy", "POPE F1", "POPE yes-ratio", "POPE recall", "POPE adversarial accuracy",
        "describe precision", "describe recall", "VQA accuracy",
    ),
    train=replace(TOY.train, num_pairs=600),
    benchmarks=Benchmarks(toy_images=300, toy_partners=True),
)  # fmt: skip
"""The toy bases learn habits at their end, and then name things that are not there, as real models do. POPE's recall is
the accuracy on questions whose answer is yes."""
PRESETS = {
    "toy": TOY,
    "habits": HABITS,
    "toy-qwen": replace(TOY, name="compare-qwen", models=tuple(f"toy-qwen-{seed}" for seed in (1, 2, 3))),
    **{
        name: Compare(
            name=f"{name}-compare",
            models=(of.model,),
            source=LLAVA_MIX,
            views=(of.view,),
            metrics=("POPE accuracy", "POPE F1", "POPE yes-ratio"),
            generate=of.generate,
            pair=of.pair,
            train=of.train,
            benchmarks=replace(of.benchmarks, pope="pope", pope_images="val2014"),
        )
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Compare methods that start from the same base models.", USUAL)
