"""sweep: a search space -> trials under Ray Tune, each measured by the study server.

Tune's own state lies in the study's artifact, so that a killed search goes on where it was: finished trials are not
repeated, and what a killed trial had made is found as artifacts. The driver's main thread runs all functions of this
file but `PointProgress`, which the server calls.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from seva_ray.benchmarks.judged.endpoint import api_key
from seva_ray.core.checks import check_least
from seva_ray.core.durations import duration
from seva_ray.core.errors import ConfigError, UserError
from seva_ray.core.fingerprints import execution
from seva_ray.dpo.config import Train
from seva_ray.runtime.log_relay import here, log_relay
from seva_ray.stages.generate import GenerationTask
from seva_ray.stages.study.resource_queue import OnRelease
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.study_server import StudyServer
from seva_ray.stages.study.tune_messages import without_tracebacks
from seva_ray.studies.space import Point, Space

if TYPE_CHECKING:
    from ray import tune


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which points of the space are tried, and for how long."""

    kind: ClassVar[str] = "Search"

    method: Literal["grid", "random", "optuna"] = "grid"
    """grid tries every point, random tries a sample of them, and optuna proposes points by what it has seen (TPE)."""
    num_points: int = 20
    """Number of points that random and optuna try."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """asha and median measure each point on few pairs first, and use more pairs only for the better points."""
    num_rungs: int = 3
    """asha and median measure a point on this many numbers of pairs. The last of them is all pairs."""
    reduction: int = 2
    """The number of pairs on a rung, divided by that on the rung before. asha and median use it."""
    seed: int = 0
    """Seed of the choices that random and optuna make."""
    max_concurrent: int = execution(3)
    """Number of trials that wait for results at once. The size of the cluster limits how much of their work runs at
    once."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_points", "num_rungs", "max_concurrent")
        check_least(self, 2, "reduction")

    def rungs(self, num_pairs: int | None) -> list[int | None]:
        """The numbers of pairs that a point is measured on, the smallest first."""
        if self.scheduler == "none":
            return [num_pairs]
        if num_pairs is None:
            raise ConfigError(f"scheduler {self.scheduler}: needs train.num_pairs, which its rungs are parts of")
        first = max(1, num_pairs // self.reduction ** (self.num_rungs - 1))
        rungs = [first * self.reduction**rung for rung in range(self.num_rungs - 1)]
        return [*(rung for rung in rungs if rung < num_pairs), num_pairs]

    def check(self, space: Space, train: Train) -> list[Point]:
        """All points of the space. Raises: ConfigError if search and space do not fit."""
        points = space.grid(train) if self.method == "grid" else space.combinations(train)
        self.rungs(points[0].num_pairs)
        if self.scheduler != "none" and len({point.num_pairs for point in points}) > 1:
            raise ConfigError(f"num_pairs: scheduler {self.scheduler} chooses it itself; give one number, and no curve")
        return points


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """How one trial ended."""

    point: Point
    num_pairs: Sequence[int | None]
    """The numbers of pairs that it was measured on: all rungs, or those before the scheduler stopped it."""
    error: str
    """The error in one line; empty if there was none."""
    lasts: bool = True
    """Whether the same command would end the same way again. If not, it tries the trial again."""


def sweep(
    search: Search,
    space: Space,
    context: StudyContext,
    name: str,
    uri: str,
    on_release: OnRelease,
    ahead: Sequence[GenerationTask] = (),
) -> list[TrialOutcome]:
    """Tries the points. Tune's state is kept under `uri`. `on_release` and `ahead` are those of a `StudyServer`."""
    # Otherwise Tune treats an interrupt as the end of the search, and returns the trials so far as all of them.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    with log_relay("sweep: waiting for the next result") as relay:
        progress = PointProgress(relay, space.axes(context.train), max_measurements(search, space, context))
        with study_server(context, progress, on_release, ahead, name) as server:
            results = tuner(search, space, context, server, uri).fit()
    outcomes = [outcome(result) for result in results]
    if len(outcomes) < num_trials(search, space, context) or not all(item.num_pairs or item.error for item in outcomes):
        raise UserError(f"{name}: the search was interrupted; the same command goes on with it")  # by SIGUSR1
    return outcomes


def num_trials(search: Search, space: Space, context: StudyContext) -> int:
    return search.num_points if search.method == "optuna" else len(points_of(search, space, context.train))


def max_measurements(search: Search, space: Space, context: StudyContext) -> int:
    """The number of measurements if no trial stops early: each point on each rung."""
    return num_trials(search, space, context) * len(search.rungs(space.axes(context.train)["num_pairs"][0]))


def points_of(search: Search, space: Space, train: Train) -> list[Point]:
    """The points that are tried; optuna chooses among them."""
    return space.sample(train, search.num_points, search.seed) if search.method == "random" else space.grid(train)


class PointProgress:
    """Prints a line for each point that was measured. The server's process calls it, one thread at a time."""

    def __init__(self, relay: Any, axes: Mapping[str, Sequence[Any]], max_measurements: int):
        self.relay, self.axes, self.max_measurements = relay, axes, max_measurements
        self.num_done, self.first = 0, 0.0

    def __call__(self, point: Point, found: str) -> None:
        self.num_done += 1
        now = time.monotonic()
        self.first = self.first or now
        rate = (self.num_done - 1) / max(now - self.first, 1e-9)  # without the first point, which waits for engines
        left = f", at most {duration((self.max_measurements - self.num_done) / rate)} left" if rate else ""
        what = point.differing(self.axes) + (f", {point.num_pairs:,} pairs" if point.num_pairs else "")
        self.relay.send.remote(f"sweep: {self.num_done}/{self.max_measurements}{left}; {what}: {found}")


@contextmanager
def study_server(
    context: StudyContext, progress: PointProgress, on_release: OnRelease, ahead: Sequence[GenerationTask], name: str
) -> Iterator[str]:
    """Runs a study server as an actor while the context lasts. Gives the name by which trials find it."""
    import ray

    found_as = f"server of {name}"
    options = {"name": found_as, "num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here()}
    actor = ray.remote(StudyServer).options(**options).remote(context, progress, on_release, ahead)
    try:
        key = api_key(context.judge) if context.judge else ""
        ray.get(actor.ready.remote(key))
        yield found_as
    finally:
        ray.kill(actor)


def tuner(search: Search, space: Space, context: StudyContext, server: str, uri: str) -> "tune.Tuner":
    from ray import tune

    from seva_ray.core.patient_filesystem import storage_for_ray
    from seva_ray.stages.study.trial import trial

    without_tracebacks()
    # A trial requests no CPU, because that CPU would be missing for the workers. Tune refuses a request for nothing.
    trainable = tune.with_resources(trial, {"cpu": 0, "memory": 1})
    config = {"server": server, "point": choices(search, space, context.train)}
    if search.scheduler != "none":
        config["rungs"] = search.rungs(space.axes(context.train)["num_pairs"][0])
    storage = storage_for_ray(f"{uri}/tune")
    kept = {"path": f"{storage['storage_path']}/search", "storage_filesystem": storage["storage_filesystem"]}
    if tune.Tuner.can_restore(**kept):
        return tune.Tuner.restore(**kept, trainable=trainable, restart_errored=True, param_space=config)
    return tune.Tuner(
        trainable,
        param_space=config,
        tune_config=tune.TuneConfig(
            metric="gain",
            mode="max",
            num_samples=search.num_points if search.method == "optuna" else 1,
            search_alg=optuna_search(search) if search.method == "optuna" else None,
            scheduler=scheduler(search, space, context.train),
            max_concurrent_trials=search.max_concurrent,
            reuse_actors=True,  # otherwise each trial starts a process
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="search", **storage, verbose=0, failure_config=tune.FailureConfig(max_failures=2)
        ),
    )


def choices(search: Search, space: Space, train: Train) -> Any:
    from ray import tune

    if search.method == "optuna":
        return {name: tune.choice(list(values)) for name, values in space.axes(train).items()}
    return tune.grid_search([asdict(point) for point in points_of(search, space, train)])


def optuna_search(search: Search) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(seed=search.seed)


def scheduler(search: Search, space: Space, train: Train) -> Any:
    """Tune's scheduler. Its time is the number of pairs: each rung is a whole training run on a part of the pairs of
    the next rung."""
    from ray import tune

    if search.scheduler == "none":
        return None
    rungs = search.rungs(space.axes(train)["num_pairs"][0])
    if search.scheduler == "median":
        return tune.schedulers.MedianStoppingRule(time_attr="num_pairs", grace_period=rungs[0])
    return tune.schedulers.AsyncHyperBandScheduler(
        time_attr="num_pairs", max_t=rungs[-1], grace_period=rungs[0], reduction_factor=search.reduction
    )


def outcome(result: Any) -> TrialOutcome:
    point = Point(**result.config["point"])
    history = result.metrics_dataframe
    reports = [] if history is None else history.to_dict("records")
    num_pairs = [report["num_pairs"] or None for report in reports if not report["error"]]
    reported = [report["error"] for report in reports if report["error"]]
    error = reported[0] if reported else line_of(str(result.error)) if result.error else ""
    return TrialOutcome(point=point, num_pairs=num_pairs, error=error, lasts=not result.error)


def line_of(traceback: str) -> str:
    """The last line of a traceback that names an error: Ray adds advice after it, and its own errors before it."""
    lines = traceback.strip().splitlines()
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Exit): ", line)), lines[-1])
