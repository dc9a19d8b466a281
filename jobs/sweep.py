"""Studies which augmentation, at which strength, with which beta, on how many pairs -> the artifact `studies/<name>`.

    python jobs/sweep.py                        a study of the toy world
    python jobs/sweep.py --space.betas 0.05 0.1 0.2 --name betas       generates nothing that another study has

Every point is trained once for each seed and scored; the page has intervals, fits, and the best policy's command.
"""

import python_check  # noqa: F401

# isort: split
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from full import PRESETS as FULL_PRESETS
from full import Full
from presets import (
    LLAVA_MIX,
    MODELS,
    ROWS,
    TOY_GENERATE,
    TOY_TRAIN,
    USUAL,
    ModelJob,
    benchmarks_of,
    prompts_of,
)
from seva_ray.benchmarks import Benchmark, Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmark, JudgedBenchmarks
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.artifacts import Artifact
from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run, words_of
from seva_ray.runtime.cluster import cluster, join
from seva_ray.runtime.resources import capacity, has_gpus
from seva_ray.runtime.sizing import num_workers
from seva_ray.sources import AnySource, ToyWorld
from seva_ray.stages.base_model import check_start, check_starts, is_toy, starting_models
from seva_ray.stages.evaluate import prepare_benchmarks
from seva_ray.stages.judge import open_judge
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.study.cluster_check import check_cluster
from seva_ray.stages.study.driver import StudyDefinition, study
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.sweep import Search
from seva_ray.studies.space import Point, PromptSet, Space


@dataclass(frozen=True, kw_only=True)
class Sweep(ModelJob):
    """A scaling study of SeVa."""

    name: str
    """Names the study."""
    prompts: str = ""
    """Names the prompt set: runs that share it share its responses too. By default it is `toy-400` or `llava-mix` for
    the sources of the presets, and the study's own name for any other source."""
    models: tuple[str, ...]
    """The starting model; or one for each seed, so that intervals hold the choice of the starting model too. Model
    directories, policies of this root, or toy bases: `toy-1`, `toy-2`, ..."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training. Every point is trained once with each seed."""
    source: AnySource
    """Where prompts come from."""
    space: Space = field(default_factory=Space)
    search: Search = field(default_factory=Search)
    benchmark: str = ""
    """The objective's benchmark, such as mm-vet-own-prompt; empty for the first one."""
    metric: str
    """The objective, such as MM-Vet: its gain over the starting model is sought."""
    test_time: bool = True
    """Also score the first starting model on the benchmark seen in every view, without training."""
    max_gpus: int | None = execution(None)
    """Number of GPUs (of CPUs, if there are no GPUs) that the study may use at once. None: all that the cluster has or
    can add."""
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    pair: Pair = field(default_factory=Pair)
    train: Train = field(default_factory=Train)
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    judged: JudgedBenchmarks = field(default_factory=JudgedBenchmarks)
    judge: Judge = field(default_factory=Judge)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("seeds: at least one, each once")
        for seed in self.seeds:
            replace(self.train, seed=seed)
        check_least(self, 1, "max_gpus")
        if len(self.models) not in (1, len(self.seeds)):
            raise ConfigError(f"models: one, or one for each of the {len(self.seeds)} seeds, not {len(self.models)}")
        if self.space.prompt_seeds and not hasattr(self.source, "seed"):
            raise ConfigError(f"prompt_seeds: {type(self.source).__name__} samples nothing")
        for prompt_set in self.space.prompt_sets():
            source_of(self, prompt_set)
        self.search.check(self.space, self.train)


def objective(config: Sweep, benchmarks: Sequence[Benchmark | JudgedBenchmark]) -> tuple[str, str]:
    """The benchmark and the metric of the objective. Raises: ConfigError if there is no such benchmark or metric."""
    named = {benchmark.name: benchmark for benchmark in benchmarks}
    if not named:
        raise ConfigError("benchmarks: none is chosen, and the objective is a benchmark's metric")
    name = config.benchmark or next(iter(named))
    if name not in named:
        raise ConfigError(f"benchmark {name}: must be one of {', '.join(named)}")
    metrics = metrics_of(named[name])
    if config.metric not in metrics:
        raise ConfigError(f"metric {config.metric!r}: {name} has {', '.join(metrics)}")
    return name, config.metric


def metrics_of(benchmark: Benchmark | JudgedBenchmark) -> list[str]:
    """The names of a benchmark's metrics."""
    if isinstance(benchmark, JudgedBenchmark):
        names = benchmark.count_names
    else:
        names = benchmark.tally({}).names
    return list(benchmark.metrics(dict.fromkeys(names, np.zeros(1))))


def source_of(config: Sweep, prompt_set: PromptSet) -> tuple[str, Any]:
    """The name of the prompts, and their source with that seed and that data set alone. Raises: ConfigError."""
    prompts: str = prompts_of(config.prompts, config.source, config.name, toy="toy-400")
    seed, only = prompt_set
    source: Any = config.source
    if only is not None:
        if not hasattr(source, "alone"):
            raise ConfigError(f"sources {only}: {type(source).__name__} is one data set")
        prompts, source = f"{prompts}-{only}", source.alone(only)
    if seed is not None:
        prompts, source = f"{prompts}-seed{seed}", replace(source, seed=seed)
    return prompts, source


def command_of(config: Sweep, preset: str, point: Point, repeat: int, policy: Artifact) -> str:
    """The command that trains a point's policy again. It reuses the policy of the study if that still exists."""
    prompts, source = source_of(config, point.prompt_set)
    settled = replace(point, num_pairs=policy.counts["num_pairs"])
    run = Full(
        name=policy.name.removeprefix("policies/"),
        prompts=prompts,
        root=config.root,
        model=config.models[repeat % len(config.models)],
        source=source,
        views=tuple(point.views),
        toy=config.toy,
        prepare=config.prepare,
        generate=config.generate,
        pair=config.pair,
        train=settled.train(config.train, config.seeds[repeat]),
        benchmarks=config.benchmarks,
        judged=config.judged,
        judge=config.judge,
        evaluate=config.evaluate,
    )
    return shlex.join(["python", "jobs/full.py", preset, *words_of(FULL_PRESETS[preset], run)])


def main(config: Sweep) -> None:
    began = time.time()
    store = config.store()
    check_starts(config.models, config.toy)
    for model in config.models:
        check_start(store, model, config.generate.image_options)
    benchmarks = benchmarks_of(config.benchmarks, config.judged, config.generate)
    sought = objective(config, benchmarks)
    judged = open_judge(config.judge, benchmarks) is not None  # its key is missed before anything runs
    sets = config.space.prompt_sets()
    prompts = {item: prepare(config.prepare, store, *source_of(config, item)) for item in sets}
    tests = prepare_benchmarks(config.prepare, store, benchmarks)
    answers = {item: source_of(config, item)[1].answers() for item in sets if isinstance(config.source, ToyWorld)}
    with cluster():
        join(spare_cpus=1)  # for the tasks beside an engine and a training run, on two cores
        there, on_gpus = allowed(config)
        # The study may be allowed to use less than the cluster has.
        training = replace(config.train, num_workers=num_workers(config.train, there))
        check_cluster(config.generate, training, [*prompts.values(), *tests], there)
        models = config.models * len(config.seeds) if len(config.models) == 1 else config.models
        context = StudyContext(
            store=store,
            generate=config.generate,
            pair=config.pair,
            train=training,
            evaluate=config.evaluate,
            benchmarks=benchmarks,
            tests=tests,
            prompts=prompts,
            base_models=starting_models(store, models, config.toy),
            seeds=config.seeds,
            objective=sought,
            capacity=there,
            on_gpus=on_gpus,
            judge=config.judge if judged else None,
        )
        definition = StudyDefinition(
            name=config.name,
            space=config.space,
            search=config.search,
            context=context,
            test_time=config.test_time,
            answers=answers,
            command=" ".join(["python", *sys.argv]),
            began=began,
        )
        preset = "toy" if any(map(is_toy, config.models)) else "llava-7b"  # from which it differs in fewest words
        study(definition, store, partial(command_of, config, preset))


def allowed(config: Sweep) -> tuple[dict[str, float], bool]:
    """The resources that the study may use, and whether it computes on GPUs."""
    there, on_gpus = capacity(), has_gpus()
    if config.max_gpus is not None:
        kind = "GPU" if on_gpus else "CPU"
        there[kind] = min(there.get(kind, 0), config.max_gpus)
    return there, on_gpus


TOY = Sweep(
    name="toy",
    models=("toy-1", "toy-2", "toy-3"),
    source=ToyWorld(num_images=400),
    space=Space(
        views=("diffusion-100:900:200", "rand_flip", "random_resized_crop", "moco"),
        swapped=("diffusion-300",),
        betas=(0.1, 0.05, 0.5),
        curve=(60, 125, 250),
        curve_views=("diffusion-300", "diffusion-500"),
    ),
    search=Search(max_concurrent=6),
    metric="VQA accuracy",
    generate=TOY_GENERATE,
    train=replace(TOY_TRAIN, num_pairs=500, num_workers=1, zero_stage=0, trackers=()),
    benchmarks=Benchmarks(toy_images=300, toy_cameras=("deployment",)),
)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, name="toy-qwen", models=tuple(f"toy-qwen-{seed}" for seed in (1, 2, 3))),
    **{
        name: Sweep(
            name=name,
            models=(of.model,),
            source=LLAVA_MIX,
            # Around a row of the paper's table, only beta varies.
            space=Space(views=(of.view if name in ROWS else "diffusion-100:900:100",), betas=(0.05, 0.1, 0.2)),
            search=Search(scheduler="asha"),
            metric="POPE accuracy",
            generate=of.generate,
            pair=of.pair,
            train=replace(of.train, num_pairs=8000),
            benchmarks=replace(of.benchmarks, pope="pope", pope_images="val2014"),
        )
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Run a scaling study of SeVa.", USUAL)
