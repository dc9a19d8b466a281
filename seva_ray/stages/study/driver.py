"""study: a sweep and all that follows from it -> the artifact `studies/<name>`.

Writes every metric of every point (`table.parquet`, `table.csv`), the best policy with its model card (`best/`), and
the page (`index.html`). All of it is read from the artifacts that the sweep left.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import gain
from seva_ray.core.artifacts import Artifact, Store, versions
from seva_ray.core.errors import UserError
from seva_ray.core.storage import exists, read_bytes, write_bytes
from seva_ray.runtime.progress import say
from seva_ray.stages.export import Export, export
from seva_ray.stages.generate import open_responses
from seva_ray.stages.pair import open_pairs
from seva_ray.stages.study.cluster_check import check_room
from seva_ray.stages.study.cost import Holdings, seconds_of
from seva_ray.stages.study.study_server import Bench, Measured, StudyServer, contrasted
from seva_ray.stages.study.study_statistics import Passes, passes_of, test_time_scores, tokens_of, view_facts
from seva_ray.stages.study.sweep import Search, TrialOutcome, points_of, sweep
from seva_ray.studies.space import SWAPPED, Point, Space
from seva_ray.studies.study_rows import POINT_FIELDS, StudyContent, StudyRow, planned_pairs, standing

Answers = Mapping[str, str]
"""Right answers by prompt_id."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a study is about."""

    name: str
    space: Space
    search: Search
    bench: Bench
    test_time: bool
    """Whether the first starting model is also scored on the benchmark seen in each view, without training."""
    answers: Mapping[int | None, Answers]
    """Of the prompts, by the source's seed, where the source knows them."""
    command: str
    """What started it."""
    began: float
    """When, Unix time in s."""


def study(asked: Asked, store: Store, command_of: Callable[[Point, int, Artifact], str]) -> Artifact:
    """`command_of` a point, a repeat and its policy says how to train that again.

    Raises: InputError where the cluster is too small; FingerprintMismatch where another recipe has a name that the
    study needs; UserError where points failed for reasons that may be mended: the page is there, and the same command
    goes on with them.
    """
    bench = asked.bench
    config = {"space": asked.space, "search": asked.search, "bench": bench.identity(), "test_time": asked.test_time}
    inputs = {item.name: item for item in (*bench.prompts.values(), *bench.tests)}
    artifact = store.open(f"studies/{asked.name}", config=config, inputs=list(inputs.values()))
    holdings = Holdings(artifact.uri)
    if not artifact.complete:
        check_names(bench, points_of(asked.search, asked.space, bench.train))
        check_room(bench.generate, bench.train, [*bench.prompts.values(), *bench.tests], bench.capacity, bench.on_gpus)
        artifact = artifact.begin()
    began = first_began(artifact, asked.began)
    if artifact.complete:
        outcomes = [outcome_of(item) for item in json.loads(read_bytes(artifact.path("trials.json")))]
    else:
        outcomes = sweep(asked.search, asked.space, bench, asked.name, artifact.uri, holdings)
        write_bytes(artifact.path("trials.json"), json.dumps([asdict(item) for item in outcomes], indent=1).encode())
    again = [outcome for outcome in outcomes if not outcome.lasts]
    points = [outcome.point for outcome in outcomes]
    server = StudyServer(bench, note=holdings)
    measured = {
        point: server.measured(point)
        for outcome in outcomes
        for point in (replace(outcome.point, num_pairs=number) for number in outcome.num_pairs)
    }
    rows = [row for point, found in measured.items() for row in rows_of(point, found)]
    axes = asked.space.axes(bench.train)
    best = best_of(rows, bench.objective, planned_pairs(axes))
    if best:
        rows = [with_distance(row, bench, measured, best) for row in rows]
    rows += [StudyRow(point=asdict(outcome.point), error=outcome.error) for outcome in outcomes if outcome.error]
    passes = passes_of(bench, points, began)
    test_time = test_time_scores(server, asked.space.plain_views()) if asked.test_time else {}
    seconds, total_s = seconds_of(bench, measured, points, began)
    content = StudyContent(
        title=f"Study {asked.name}",
        objective=bench.objective,
        axes=axes,
        rows=rows,
        views=view_facts(measured, asked.answers),
        test_time=test_time,
        passes_done=passes.done,
        passes_apart=passes.apart,
        summary=summary(rows, best, asked, passes, outcomes),
        seconds=seconds,
        total_s=total_s,
        hours=holdings.hours("GPU" if bench.on_gpus else "CPU"),
        on_gpus=bench.on_gpus,
        config=artifact.recipe["config"],
        versions=versions(),
        command=asked.command,
    )
    if best:
        found = measured[best]
        repeat = best_repeat(found, bench.objective)
        policy = found.policies[repeat].name.removeprefix("policies/")
        where = "" if again else artifact.path("best")
        if where and not exists(where):
            export(Export(to=where), store, policy)
        content = replace(
            content,
            best=asdict(best),
            best_command=command_of(best, repeat, found.policies[repeat]),
            best_directory=where,
            start_tokens=tokens_of(store, bench, bench.starts[repeat].name),
            best_tokens=tokens_of(store, bench, policy),
        )
    write_tables(artifact, rows)
    if not artifact.complete and not again:
        failed = sum(bool(outcome.error) for outcome in outcomes)
        artifact = artifact.finish({"num_trials": len(outcomes), "num_failed": failed, "passes": asdict(passes)})
    from seva_ray.pages.study_page import render  # draws: not for jobs that only show their help

    write_bytes(artifact.path("index.html"), render(content).encode())
    for line in content.summary:
        say(f"study: {line}")
    say(f"study: {artifact.path('index.html')}")
    if again:
        raise UserError(
            f"studies/{asked.name}: {len(again):,} of {len(outcomes):,} points failed, and are tried again by the same "
            f"command; the first: {again[0].error}"
        )
    return artifact


def first_began(artifact: Artifact, now: float) -> float:
    """When the study was first started, Unix time in s: restarts are part of it."""
    uri = artifact.path("began")
    if not exists(uri):
        write_bytes(uri, repr(now).encode())
    return float(read_bytes(uri))


def check_names(bench: Bench, points: Sequence[Point]) -> None:
    """Before anything is generated. Raises: FingerprintMismatch or ConfigError where a point would."""
    store = bench.store
    for start in bench.starts:
        for tests in bench.tests:
            open_responses(bench.generate, store, start, tests, CLEAN)
        for seed, views in dict.fromkeys((point.prompt_seed, tuple(point.views)) for point in points):
            prompts = bench.prompts[seed]
            chosen, *rejected = (
                open_responses(bench.generate, store, start, prompts, view) for view in (CLEAN, *views)
            )
            open_pairs(bench.pair, store, prompts, chosen, rejected)


def outcome_of(item: Mapping[str, Any]) -> TrialOutcome:
    return TrialOutcome(**{**item, "point": Point(**item["point"])})


def rows_of(point: Point, measured: Measured) -> list[StudyRow]:
    trained = sum(policy.counts["num_pairs"] for policy in measured.policies) / len(measured.policies)
    return [
        StudyRow(
            point=asdict(point),
            benchmark=benchmark,
            metric=found.metric,
            start=found.start,
            policy=found.policy,
            difference=found.difference,
            difference_low=found.difference_low,
            difference_high=found.difference_high,
            differences=found.differences,
            trained_pairs=trained,
        )
        for benchmark, comparisons in measured.scores.items()
        for found in comparisons
    ]


def with_distance(row: StudyRow, bench: Bench, measured: Mapping[Point, Measured], best: Point) -> StudyRow:
    """How far the best is ahead, in the objective."""
    point = Point(**row.point)
    if (row.benchmark, row.metric) != bench.objective or point == best:
        return row
    found = contrasted(bench, measured[best], measured[point])
    low, high = sorted(gain(found.metric, end) for end in (found.difference_low, found.difference_high))
    return replace(row, ahead=found.gain, ahead_low=low, ahead_high=high)


def best_of(rows: Sequence[StudyRow], objective: tuple[str, str], planned: float) -> Point | None:
    """The point of the greatest gain among those on the planned number of pairs, or the nearest to it that there is;
    the swap control is none. None: all failed."""
    sought = [
        row
        for row in rows
        if (row.benchmark, row.metric) == objective and row.measured and not row.point["arm"].startswith(SWAPPED)
    ]
    nearest = max((standing(row, planned) for row in sought), default=None)
    last = [row for row in sought if standing(row, planned) == nearest]
    return Point(**max(last, key=lambda row: row.gain).point) if last else None


def best_repeat(measured: Measured, objective: tuple[str, str]) -> int:
    """The one nearest to the mean: the highest would be the luckiest."""
    benchmark, metric = objective
    (row,) = (row for row in measured.scores[benchmark] if row.metric == metric)
    return min(range(len(row.differences)), key=lambda repeat: abs(row.differences[repeat] - row.difference))


def summary(
    rows: Sequence[StudyRow], best: Point | None, asked: Asked, passes: Passes, outcomes: Sequence[TrialOutcome]
) -> list[str]:
    bench = asked.bench
    benchmark, metric = bench.objective
    repeats = f"{len(bench.seeds)} repeats" if len(bench.seeds) > 1 else "one repeat"
    starts = len({start.fingerprint for start in bench.starts})
    lines = [
        f"{len(outcomes)} points, {repeats} each" + (f", each from its own of {starts} models." if starts > 1 else ".")
    ]
    if best:
        (row,) = (row for row in rows if row.point == asdict(best) and (row.benchmark, row.metric) == bench.objective)
        what = best.differing(asked.space.axes(bench.train))
        lines.append(
            f"Best: {what}: {metric} {row.start:.1f} -> {row.policy:.1f}, {row.difference:+.1f} "
            f"[{row.difference_low:+.1f}, {row.difference_high:+.1f}] on {benchmark}. {row.caveat}".rstrip()
        )
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        lines.append(f"{failed} of {len(outcomes)} points failed; the table says why.")
    lines.append(
        f"Generation: {passes.done} passes over training prompts, {passes.found} were there before; the same points "
        f"one by one would take {passes.apart}: {passes.apart - passes.done} saved."
    )
    return lines


def write_tables(artifact: Artifact, rows: Sequence[StudyRow]) -> None:
    """A row for each metric of each point and number of pairs; a failed point has one row, with its error."""
    flat = [
        {name: row.point[name] for name in POINT_FIELDS} | {k: v for k, v in vars(row).items() if k != "point"}
        for row in rows
    ]
    table = pa.Table.from_pylist([row | {"differences": json.dumps(list(row["differences"]))} for row in flat])
    for name, write in (("table.parquet", pyarrow.parquet.write_table), ("table.csv", pyarrow.csv.write_csv)):
        file = BytesIO()
        write(table, file)
        write_bytes(artifact.path(name), file.getvalue())
