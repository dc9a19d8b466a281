"""The server of a study: the one process in which its trials' work is done, each piece of it once.

Trials ask it to `measure` a point. Their generation goes through one thread, in batches: what several ask for is made
once, by one pool of engines. Likewise their training (groups.py), which claims its workers' CPUs or GPUs whole, so that
no two runs hold half of what they need. All results are artifacts with names that follow from their recipes: what
exists is never made again.
"""

import contextlib
import gc
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import NothingLeft, UserError
from seva_ray.core.fingerprints import fingerprint_of, identity
from seva_ray.dpo.config import Train
from seva_ray.runtime import metrics
from seva_ray.runtime.cli import users_line
from seva_ray.scoring.intervals import Repeated, repeated_bootstrap
from seva_ray.stages.evaluate import compare
from seva_ray.stages.generate import Generate, GenerationTask, generated, name_of, open_responses
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.repeats import repeated
from seva_ray.stages.score_files import Evaluate, read_tallies
from seva_ray.stages.study.cluster_check import claim_of_generation, claim_of_training, num_engines
from seva_ray.stages.study.resource_requests import Lanes, Note, ResourceRequest
from seva_ray.stages.study.worker_groups import GATHERING_S, GROUP, Groups
from seva_ray.stages.training.reference import open_logps, references
from seva_ray.stages.training.train import Training
from seva_ray.studies.space import Point
from seva_ray.vlm.models import Model, model_of


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that the points of a study have in common."""

    store: Store
    generate: Generate
    pair: Pair
    train: Train
    evaluate: Evaluate
    benchmarks: Sequence[Benchmark]
    tests: Sequence[Artifact]
    """The benchmarks' prompts."""
    prompts: Mapping[int | None, Artifact]
    """By the source's seed; None is the source's own."""
    starts: Sequence[Model]
    """The starting model of each repeat."""
    seeds: Sequence[int]
    """The training seed of each repeat."""
    objective: tuple[str, str]
    """Benchmark and metric whose gain over the starting model is sought."""
    capacity: ResourceRequest
    """What the cluster has, once it has grown as far as it may; kinds of nodes too, where it has any."""
    on_gpus: bool

    def identity(self) -> dict[str, Any]:
        """What the study's numbers follow from, beside its inputs."""
        return {
            "generate": self.generate,
            "pair": self.pair,
            "train": self.train,
            "evaluate": self.evaluate,
            "starts": [start.fingerprint for start in self.starts],
            "seeds": self.seeds,
            "objective": self.objective,
        }


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A point on a number of pairs: what was trained in each repeat, and its scores."""

    policies: Sequence[Artifact]
    pairs: Sequence[Artifact]
    scored: Mapping[str, Sequence[Artifact]]
    """By benchmark, the scores of each repeat."""
    scores: Mapping[str, Sequence[Repeated]]
    """By benchmark, all repeats together."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody waits for."""

    work: Sequence[GenerationTask]
    answered: "Future[list[Artifact]]"

    def answer(self, there: Mapping[str, Artifact]) -> None:
        """Where all of it is there. `there`: by name."""
        names = [name_of(*item) for item in self.work]
        if not self.answered.done() and all(name in there for name in names):
            self.answered.set_result([there[name] for name in names])


class StudyServer:
    """Its methods may be called by many threads."""

    def __init__(
        self,
        bench: Bench,
        tell: Callable[[Point, str], None] = lambda point, found: None,
        note: Note = lambda what, claim, seconds: None,
    ):
        """`tell` is called with every point that has been measured, and what was found."""
        self.bench, self.tell = bench, tell
        self.claim = claim_of_training(bench.train, bench.capacity, bench.on_gpus)
        alone = {} if bench.on_gpus else {GROUP: 1.0}
        self.lanes = Lanes({**bench.capacity, **alone}, note)
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.repeats = ThreadPoolExecutor(64)
        self.groups = Groups(bench.store, self.lanes, {**self.claim, **alone}, self.alone)
        self.failed: dict[Point, str] = {}
        threading.Thread(target=self.answer_for_ever, daemon=True).start()

    def ready(self) -> None:
        """It is there."""

    def measure(self, values: Mapping[str, Any], num_pairs: int | None) -> dict[str, Any]:
        """What Tune is told; an error of the point's own is a result.

        Raises: UserError where the cause lies elsewhere and can be mended. Tune tries again, and is told the same.
        """
        told = {"num_pairs": num_pairs or 0, "error": "", "gain": float("nan")}
        point = replace(Point(**values), num_pairs=num_pairs)
        if point in self.failed:
            raise UserError(self.failed[point])
        try:
            measured = self.measured(point)
        except NothingLeft as error:
            self.tell(point, str(error))
            return told | {"error": str(error)}
        except Exception as error:
            line = users_line(error)
            if line is None:
                raise
            self.tell(point, line)
            self.failed[point] = line
            raise UserError(line) from None
        benchmark, metric = self.bench.objective
        row = next(row for row in measured.scores[benchmark] if row.metric == metric)
        self.tell(point, f"{metric} {row.difference:+.1f} [{row.difference_low:+.1f}, {row.difference_high:+.1f}]")
        return told | {"gain": row.gain}

    def measured(self, point: Point) -> Measured:
        """Every repeat trained and scored. What exists already is only read."""
        trainings = list(self.repeats.map(lambda repeat: self.training(point, repeat), range(len(self.bench.seeds))))
        self.prepare(trainings)
        policies = self.groups.train(trainings)
        scored = self.scored([model_of(policy) for policy in policies])
        return Measured(
            policies=policies,
            pairs=[training.pairs for training in trainings],
            scored=scored,
            scores={
                item.name: repeated(self.bench.evaluate, item, scored[item.name]) for item in self.bench.benchmarks
            },
        )

    def training(self, point: Point, repeat: int) -> Training:
        """What makes the point's policy in one repeat; its pairs are there."""
        bench = self.bench
        start, prompts = bench.starts[repeat], bench.prompts[point.prompt_seed]
        chosen, *rejected = self.responses([(start, prompts, view) for view in (CLEAN, *point.views)])
        with self.alone(f"pairs of {start.name} {prompts.name} {point.views}"):
            pairs = pair(bench.pair, bench.store, prompts, chosen, rejected)
        config = settled(point.train(bench.train, bench.seeds[repeat]), pairs)
        return Training(config=config, name=policy_name(config, start, pairs), model=start, pairs=pairs)

    def prepare(self, trainings: Sequence[Training]) -> None:
        """The reference log-probabilities of all repeats."""
        work = {training.pairs.name: (training.model, training.pairs) for training in trainings}
        config, store = trainings[0].config, self.bench.store
        with self.alone(*(f"logps of {name}" for name in work)):
            if not all(open_logps(config, store, *item).complete for item in work.values()):
                with self.lanes.hold(self.claim, "reference"):
                    references(config, store, list(work.values()))

    def scored(self, policies: Sequence[Model]) -> dict[str, list[Artifact]]:
        """Each benchmark's scores of each repeat, every policy beside its own start."""
        bench = self.bench
        asked = [
            (model, tests, CLEAN)
            for start, policy in zip(bench.starts, policies, strict=True)
            for model in (start, policy)
            for tests in bench.tests
        ]
        answers = iter(self.responses(asked))
        found: dict[str, list[Artifact]] = {benchmark.name: [] for benchmark in bench.benchmarks}
        for policy in policies:
            sides = [[next(answers) for _ in bench.tests] for _ in range(2)]
            for benchmark, tests, of_start, of_policy in zip(bench.benchmarks, bench.tests, *sides, strict=True):
                name = policy.name
                with self.alone(f"scores of {name}"):
                    scores = compare(bench.evaluate, bench.store, benchmark, tests, of_start, of_policy, name)
                found[benchmark.name].append(scores)
        return found

    def responses(self, work: Sequence[GenerationTask]) -> list[Artifact]:
        """Read where they are all there, else made by the one thread that generates."""
        opened = [open_responses(self.bench.generate, self.bench.store, *item) for item in work]
        if all(artifact.complete for artifact in opened):
            return [metrics.reused(artifact) for artifact in opened]
        order = Order(work=work, answered=Future())
        self.orders.put(order)
        return order.answered.result()

    def answer_for_ever(self) -> None:
        """What is waiting is generated together; where that fails, each by itself, so that the others have theirs."""
        while True:
            orders = [self.orders.get()]
            time.sleep(GATHERING_S)
            while not self.orders.empty():
                orders.append(self.orders.get())
            self.answer(orders, last=len(orders) == 1)
            for order in orders:
                if not order.answered.done():
                    self.answer([order], last=True)

    def answer(self, orders: Sequence[Order], last: bool) -> None:
        """Each order is answered as soon as all its responses are there; an error only where this is the last try."""
        bench, there = self.bench, dict[str, Artifact]()
        room = num_engines(bench.generate, bench.capacity, bench.on_gpus)
        config = replace(bench.generate, max_engines=room)
        try:
            with self.lanes.hold(claim_of_generation(config, bench.capacity, bench.on_gpus), "generate"):
                for artifact in generated(config, bench.store, [item for order in orders for item in order.work]):
                    there[artifact.name] = artifact
                    for order in orders:
                        order.answer(there)
            return
        except Exception as error:
            line = users_line(error)
            told = UserError(line) if line else RuntimeError(f"generation failed: {error!r}")
            error.__traceback__ = None
        gc.collect()  # what the error still held has engines in it, which hold their CPUs
        if last and not orders[0].answered.done():
            orders[0].answered.set_exception(told)

    @contextlib.contextmanager
    def alone(self, *what: str) -> Iterator[None]:
        """One thread at a time makes one thing; the others find it made."""
        with contextlib.ExitStack() as held:
            for name in sorted(set(what)):  # in one order: none waits in a circle
                held.enter_context(self.locks[name])
            yield


def contrasted(bench: Bench, one: Measured, other: Measured) -> Repeated:
    """The objective of one point's policies (`policy`) against another's (`start`), repeat by repeat."""
    name, metric = bench.objective
    (benchmark,) = (item for item in bench.benchmarks if item.name == name)
    of_one, of_other = ([read_tallies(item)[1] for item in side.scored[name]] for side in (one, other))
    resampling = {"num_resamples": bench.evaluate.num_resamples, "seed": bench.evaluate.seed}
    (row,) = (
        row for row in repeated_bootstrap(of_other, of_one, benchmark.metrics, **resampling) if row.metric == metric
    )
    return row


def settled(config: Train, pairs: Artifact) -> Train:
    """With no more pairs than there are: two limits that are both above that are one run."""
    there = pairs.counts["verdicts"]["kept"]
    return replace(config, num_pairs=there if config.num_pairs is None else min(config.num_pairs, there))


def policy_name(config: Train, start: Model, pairs: Artifact) -> str:
    """Follows from the recipe: the same policy in any study is one policy."""
    recipe = {"train": identity(config), "model": start.fingerprint, "pairs": pairs.fingerprint}
    return f"{start.name}-{fingerprint_of(recipe)}"
