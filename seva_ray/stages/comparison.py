"""comparison: policies of several methods and their scores -> the page `comparisons/<name>/index.html`.

Each method is trained from every base model, once with each seed. The interval of a difference covers the choice of
images and of base models: the counts of the seeds of one base model are added up first.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seva_ray.benchmarks.base import Benchmark, Tally
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.core.provenance import versions
from seva_ray.core.storage import read_bytes
from seva_ray.dpo.methods import METHODS
from seva_ray.pages.comparison_page import ComparisonContent, MethodRow, MetricTable
from seva_ray.scoring.intervals import Repeated, repeated_bootstrap
from seva_ray.stages.report import drawn_once, page_recipe
from seva_ray.stages.results import change
from seva_ray.stages.score_files import Evaluate, read_tallies
from seva_ray.stages.training.worker import LOG


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The policies of one method, and their scores on each benchmark. Both are lists over base models of lists over
    seeds."""

    method: str
    policies: Sequence[Sequence[Artifact]]
    scores: Mapping[str, Sequence[Sequence[Artifact]]]
    """The scores, by the name of the benchmark."""

    def artifacts(self) -> list[Artifact]:
        of_scores = [item for of_benchmark in self.scores.values() for of_base in of_benchmark for item in of_base]
        return [*(policy for of_base in self.policies for policy in of_base), *of_scores]


def check_metrics(benchmarks: Sequence[Benchmark], metrics: Sequence[str]) -> None:
    """Raises: ConfigError if no benchmark has one of the metrics."""
    known = {name for benchmark in benchmarks for name in metrics_of(benchmark)}
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"metric {metric!r}: the benchmarks have {', '.join(sorted(known))}")


def metrics_of(benchmark: Benchmark) -> list[str]:
    tally = benchmark.tally({})
    return [*benchmark.metrics(dict(zip(tally.names, tally.counts.sum(axis=0), strict=True)))]


def compare_methods(
    config: Evaluate,
    store: Store,
    name: str,
    benchmarks: Sequence[Benchmark],
    compared: Sequence[Compared],
    metrics: Sequence[str],
    against: Sequence[str],
    command: str,
    settings: Mapping[str, Any],
) -> str:
    """Write the page and return its URI. It stays as it is if the same code draws it from the same artifacts.
    `against`: the methods that the others are compared with."""
    uri = store.uri(f"comparisons/{name}/index.html")
    shown = {item.name: item.record for each in compared for item in each.artifacts()}

    def draw(drawn_from: str) -> str:
        from seva_ray.pages.comparison_page import render  # takes seconds

        tables = [table_of(config, benchmark, compared, metrics, against) for benchmark in benchmarks]
        content = ComparisonContent(
            title=f"seva_ray: the methods of {name}",
            summary=summary(compared, tables),
            methods=[row_of(each) for each in compared],
            tables=tables,
            command=command,
            config=settings,
            versions=versions(),
            drawn_from=drawn_from,
        )
        return render(content)

    recipe = page_recipe({"metrics": list(metrics), "against": list(against), "evaluate": identity(config)}, shown)
    return drawn_once(uri, "compare", recipe, draw, "computing the intervals and drawing the page")


def table_of(
    config: Evaluate,
    benchmark: Benchmark,
    compared: Sequence[Compared],
    metrics: Sequence[str],
    against: Sequence[str],
) -> MetricTable:
    sides = {each.method: tallies_of(each, benchmark) for each in compared}
    names = [metric for metric in metrics if metric in metrics_of(benchmark)]

    def rows(before: Sequence[Tally], after: Sequence[Tally]) -> list[Repeated]:
        found = repeated_bootstrap(
            before, after, benchmark.metrics, num_resamples=config.num_resamples, seed=config.seed
        )
        by_name = {row.metric: row for row in found}
        return [by_name[metric] for metric in names]

    return MetricTable(
        title=benchmark.name,
        metrics=names,
        against_base={method: rows(*of_method) for method, of_method in sides.items()},
        against={
            other: {method: rows(sides[other][1], sides[method][1]) for method in sides if method != other}
            for other in against
        },
    )


def tallies_of(compared: Compared, benchmark: Benchmark) -> tuple[list[Tally], list[Tally]]:
    """The counts, summed over the seeds, of each base model and of its policies."""
    starts, policies = [], []
    for of_base in compared.scores[benchmark.name]:
        of_starts, of_policies = zip(*map(read_tallies, of_base), strict=True)
        starts.append(summed(of_starts))
        policies.append(summed(of_policies))
    return starts, policies


def summed(tallies: Sequence[Tally]) -> Tally:
    """The counts of several answers to the same questions, added up."""
    first = tallies[0]
    assert all(list(tally.image_ids) == list(first.image_ids) for tally in tallies), "they are of other images"
    counts = np.sum([tally.counts for tally in tallies], axis=0)
    return Tally(image_ids=first.image_ids, names=first.names, counts=counts)


def row_of(compared: Compared) -> MethodRow:
    policies = [policy for of_base in compared.policies for policy in of_base]
    logs = [json.loads(read_bytes(policy.path(LOG))) for policy in policies]
    steps = [policy.counts["num_steps"] for policy in policies]
    runtimes = [next(row["train_runtime"] for row in log if "train_runtime" in row) for log in logs]
    method = METHODS[compared.method]
    return MethodRow(
        name=compared.method,
        about=method.about,
        is_control=method.is_control,
        num_policies=len(policies),
        num_pairs=float(np.mean([policy.counts["num_pairs"] for policy in policies])),
        num_steps=float(np.mean(steps)),
        step_s=float(sum(runtimes) / sum(steps)),
        log=mean_log([[row for row in log if "loss" in row] for log in logs]),
    )


def mean_log(logs: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """The mean of several logs, step by step, up to the end of the shortest."""
    found = []
    for rows in zip(*logs, strict=False):
        common = set.intersection(*({key for key, value in row.items() if is_number(value)} for row in rows))
        found.append({key: float(np.mean([row[key] for row in rows])) for key in sorted(common)})
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def summary(compared: Sequence[Compared], tables: Sequence[MetricTable]) -> list[str]:
    """Sentences for the top of the page: the main metric of each benchmark, of the best method that is no control."""
    num_bases, num_seeds = len(compared[0].policies), len(compared[0].policies[0])
    lines = []
    for table in tables:
        shown = {method: rows[0] for method, rows in table.against_base.items() if not METHODS[method].is_control}
        if table.metrics and shown:
            best = max(shown, key=lambda method: shown[method].gain)
            row = shown[best]
            found = "" if row.excludes_zero else ": not distinguishable from no change"
            most = f"{best} gains most" if row.gain > 0 else f"no method gains, and {best} comes nearest"
            lines.append(f"{table.metrics[0]} on {table.title}: {most}, {change(row).strip()}{found}")
    bases = "1 base model" if num_bases == 1 else f"{num_bases} base models"
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    over = "images and base models" if num_bases > 1 else "images alone"
    count = f"{len(compared)} methods and controls from {bases}, with {seeds} each."
    covered = f"Intervals cover the choice of {over}, but not that of the best among several methods."
    return [*lines, f"{count} {covered}"]
