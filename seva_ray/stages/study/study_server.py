"""The study server: the one process in which the work of a study's trials is done, each piece of it once.

Trials ask it to measure a point. All results are artifacts whose names follow from their recipes, so what exists is
never made again. The package's page (`__init__.py`) explains its threads and locks.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import NothingLeft, UserError
from seva_ray.core.fingerprints import fingerprint_of, identity
from seva_ray.core.imports import quick_imports
from seva_ray.dpo.config import Train
from seva_ray.runtime.cli import users_line
from seva_ray.scoring.intervals import Repeated, repeated_bootstrap
from seva_ray.stages.evaluate import compare, needs_judge
from seva_ray.stages.generate import GenerationTask
from seva_ray.stages.pair import pair
from seva_ray.stages.repeats import repeated
from seva_ray.stages.score_files import read_tallies
from seva_ray.stages.study.cluster_check import training_request
from seva_ray.stages.study.generation_queue import GenerationQueue
from seva_ray.stages.study.named_locks import NamedLocks
from seva_ray.stages.study.resource_queue import OnRelease, ResourceQueue
from seva_ray.stages.study.study_context import MeasuredPoint, StudyContext
from seva_ray.stages.study.worker_groups import GROUP, WorkerGroups
from seva_ray.stages.training.training import Training
from seva_ray.studies.space import Point
from seva_ray.vlm.models import Model, model_of

NUM_SEED_THREADS = 64
"""Threads that make pairs for all trials together. They only wait for responses, so a small number is no deadlock."""


class StudyServer:
    """Measures points. Its methods may be called by many threads at once."""

    def __init__(
        self,
        context: StudyContext,
        report: Callable[[Point, str], None] = lambda point, found: None,
        on_release: OnRelease = lambda purpose, request, seconds: None,
        ahead: Sequence[GenerationTask] = (),
    ):
        """`report` is called with every point that was measured and a sentence of what was found, by one thread at a
        time. `ahead`: the study needs these responses at its end, so the engines of the first point make them too."""
        self.context, self.report, self.ahead = context, report, ahead
        one_group = {} if context.on_gpus else {GROUP: 1.0}
        self.resources = ResourceQueue({**context.capacity, **one_group}, on_release)
        self.locks = NamedLocks()
        self.generation = GenerationQueue(context, self.resources)
        request = training_request(context.train, context.capacity)
        self.groups = WorkerGroups(context.store, self.resources, {**request, **one_group}, self.locks)
        self.seed_threads = ThreadPoolExecutor(NUM_SEED_THREADS)
        self.endpoint: Endpoint | None = None
        self.failed: dict[Point, str] = {}
        self.reporting = threading.Lock()

    def ready(self, key: str = "") -> None:
        """Returns as soon as the server's process runs; the driver waits for it before it starts trials. `key` is the
        judge's, which only the driver's environment holds.

        It imports what several threads will need at once. Large libraries are not made to be imported by two threads at
        the same time.
        """
        with quick_imports():
            import torch  # noqa: F401
            import transformers  # noqa: F401
        if key and self.context.judge:
            os.environ[self.context.judge.key_variable] = key

    def measure(self, values: Mapping[str, Any], num_pairs: int | None) -> dict[str, Any]:
        """What the trial reports to Tune. An error that belongs to the point is a result. The trial's thread runs this.

        Raises: UserError if the cause lies outside the point and the user can remove it. Tune tries the trial again and
        gets the same error at once.
        """
        result = {"num_pairs": num_pairs or 0, "error": "", "gain": float("nan")}
        point = replace(Point(**values), num_pairs=num_pairs)
        if point in self.failed:
            raise UserError(self.failed[point])
        try:
            row = self.measure_point(point).score(self.context.objective)
        except NothingLeft as error:
            self.report_point(point, str(error))
            return result | {"error": str(error)}
        except Exception as error:
            line = users_line(error)
            if line is None:
                raise
            self.report_point(point, line)
            self.failed[point] = line
            raise UserError(line) from None
        interval = f"[{row.difference_low:+.1f}, {row.difference_high:+.1f}]"
        self.report_point(point, f"{row.metric} {row.difference:+.1f} {interval}")
        return result | {"gain": row.gain}

    def report_point(self, point: Point, found: str) -> None:
        with self.reporting:
            self.report(point, found)

    def measure_point(self, point: Point) -> MeasuredPoint:
        """Trains and scores the point once for each seed. What exists is only read. The trial's thread runs this."""
        context = self.context
        begun = self.seed_threads.map(lambda index: self.training_of(point, index), range(len(context.seeds)))
        self.generation.ask(self.ahead)
        trainings = list(begun)
        policies = self.groups.train(trainings)
        score_files = self.score_files_of([model_of(policy) for policy in policies])
        return MeasuredPoint(
            policies=policies,
            pairs=[training.pairs for training in trainings],
            score_files=score_files,
            scores={
                benchmark.name: repeated(context.evaluate, benchmark, score_files[benchmark.name])
                for benchmark in context.benchmarks
            },
        )

    def training_of(self, point: Point, index: int) -> Training:
        """What trains the point's policy with one seed; its pairs exist when this returns. A seed thread runs this."""
        context = self.context
        model, prompts = context.base_models[index], context.prompts[point.prompt_set]
        tasks = [(model, prompts, view) for view in (CLEAN, *point.views)]
        chosen, *rejected = self.generation.responses(tasks)
        with self.locks.hold(f"pairs of {model.name} {prompts.name} {point.views}"):
            pairs = pair(context.pair, context.store, prompts, chosen, rejected)
        config = capped(point.train(context.train, context.seeds[index]), pairs)
        return Training(config=config, name=policy_name(config, model, pairs), model=model, pairs=pairs)

    def score_files_of(self, policies: Sequence[Model]) -> dict[str, list[Artifact]]:
        """The scores of each seed by benchmark, each policy beside its own base model. The trial's thread runs this."""
        context = self.context
        tasks = [
            (model, tests, CLEAN)
            for base_model, policy in zip(context.base_models, policies, strict=True)
            for model in (base_model, policy)
            for tests in context.tests
        ]
        answers = iter(self.generation.responses(tasks))
        found: dict[str, list[Artifact]] = {benchmark.name: [] for benchmark in context.benchmarks}
        for policy in policies:
            sides = [[next(answers) for _ in context.tests] for _ in range(2)]
            for benchmark, tests, of_base, of_policy in zip(context.benchmarks, context.tests, *sides, strict=True):
                asked = (context.evaluate, context.store, benchmark, tests, of_base, of_policy, policy.name)
                with self.locks.hold(f"scores of {policy.name}"), self.judging(benchmark) as endpoint:
                    scores = compare(*asked, endpoint)
                found[benchmark.name].append(scores)
        return found

    @contextmanager
    def judging(self, benchmark: Benchmark | JudgedBenchmark) -> Iterator[Endpoint | None]:
        """What asks the judge, for a benchmark that needs it. Policies are judged one after the other: the base model's
        answers are then judged only once, and the judge gets no more questions at a time than its settings allow."""
        if not needs_judge(benchmark):
            yield None
            return
        assert self.context.judge is not None, f"{benchmark.name} needs a judge"
        with self.locks.hold("the judge"):
            self.endpoint = self.endpoint or Endpoint(self.context.judge)
            yield self.endpoint


def compare_points(context: StudyContext, one: MeasuredPoint, other: MeasuredPoint) -> Repeated:
    """The objective of one point's policies (as `policy`) against another point's (as `start`), seed by seed."""
    (name, metric), (benchmark, _) = context.objective, context.objective_benchmark()
    of_one, of_other = ([read_tallies(item)[1] for item in side.score_files[name]] for side in (one, other))
    resampling = {"num_resamples": context.evaluate.num_resamples, "seed": context.evaluate.seed}
    rows = repeated_bootstrap(of_other, of_one, benchmark.metrics, **resampling)
    (row,) = (row for row in rows if row.metric == metric)
    return row


def capped(config: Train, pairs: Artifact) -> Train:
    """The configuration with no more pairs than exist: two limits that are both above that number are one run."""
    kept = pairs.counts["verdicts"]["kept"]
    return replace(config, num_pairs=kept if config.num_pairs is None else min(config.num_pairs, kept))


def policy_name(config: Train, model: Model, pairs: Artifact) -> str:
    """A name that follows from the recipe: the same policy in any study is one policy."""
    recipe = {"train": identity(config), "model": model.fingerprint, "pairs": pairs.fingerprint}
    return f"{model.name}-{fingerprint_of(recipe)}"
