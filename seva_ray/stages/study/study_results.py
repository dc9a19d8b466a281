"""What a study found, as rows, as its best point, and as the sentences that its page and the terminal begin with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from seva_ray.benchmarks.base import gain
from seva_ray.core.artifacts import Artifact
from seva_ray.core.storage import write_bytes
from seva_ray.stages.study.study_context import MeasuredPoint, StudyContext
from seva_ray.stages.study.study_server import compare_points
from seva_ray.stages.study.study_statistics import MeasuredPoints, Passes
from seva_ray.stages.study.sweep import TrialOutcome
from seva_ray.studies.space import SWAPPED, Point, Space
from seva_ray.studies.study_rows import POINT_FIELDS, StudyRow, planned_pairs, standing


def study_rows(
    context: StudyContext, space: Space, measured: MeasuredPoints, outcomes: Sequence[TrialOutcome]
) -> tuple[list[StudyRow], Point | None]:
    """Every metric of every point, then one row for each failed point; and the best point."""
    rows = [row for point, found in measured.items() for row in rows_of_point(point, found)]
    best = best_of(rows, context.objective, planned_pairs(space.axes(context.train)))
    if best:
        rows = [with_distance(row, context, measured, best) for row in rows]
    failed = [StudyRow(point=asdict(outcome.point), error=outcome.error) for outcome in outcomes if outcome.error]
    return rows + failed, best


def rows_of_point(point: Point, measured: MeasuredPoint) -> list[StudyRow]:
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


def with_distance(row: StudyRow, context: StudyContext, measured: MeasuredPoints, best: Point) -> StudyRow:
    """The row with how far the best point is ahead of it, if it is a row of the objective."""
    point = Point(**row.point)
    if (row.benchmark, row.metric) != context.objective or point == best:
        return row
    found = compare_points(context, measured[best], measured[point])
    low, high = sorted(gain(found.metric, end) for end in (found.difference_low, found.difference_high))
    return replace(row, ahead=found.gain, ahead_low=low, ahead_high=high)


def best_of(rows: Sequence[StudyRow], objective: tuple[str, str], planned: float) -> Point | None:
    """The point with the greatest gain among those on the planned number of pairs, or on the number nearest to it that
    was measured. The swap control is never the best. None if all points failed."""
    sought = [
        row
        for row in rows
        if (row.benchmark, row.metric) == objective and row.measured and not row.point["arm"].startswith(SWAPPED)
    ]
    nearest = max((standing(row, planned) for row in sought), default=None)
    last = [row for row in sought if standing(row, planned) == nearest]
    return Point(**max(last, key=lambda row: row.gain).point) if last else None


def best_seed(measured: MeasuredPoint, objective: tuple[str, str]) -> int:
    """The index of the seed nearest to the mean: the seed with the highest score would be the luckiest one."""
    row = measured.score(objective)
    return min(range(len(row.differences)), key=lambda index: abs(row.differences[index] - row.difference))


def summary(
    rows: Sequence[StudyRow],
    best: Point | None,
    context: StudyContext,
    space: Space,
    passes: Passes,
    outcomes: Sequence[TrialOutcome],
) -> list[str]:
    """The sentences at the top of the page, which the driver also prints."""
    seeds = f"{len(context.seeds)} training seeds" if len(context.seeds) > 1 else "one training seed"
    num_models = len({model.fingerprint for model in context.base_models})
    models = f" and each seed from its own of {num_models} base models" if num_models > 1 else ""
    lines = [f"{len(outcomes)} points, each trained with {seeds}{models}."]
    if best:
        (row,) = (row for row in rows if row.point == asdict(best) and (row.benchmark, row.metric) == context.objective)
        lines.append(headline(best.differing(space.axes(context.train)), row))
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if failed:
        lines.append(f"{failed} of {len(outcomes)} points failed; the table says why.")
    lines.append(
        f"Passes over the training prompts: {passes.done} were made and {passes.found} existed before. Runs of one "
        f"point each would make {passes.apart}, so {passes.apart - passes.done} were saved."
    )
    return lines


def headline(what: str, row: StudyRow) -> str:
    """The best point's gain, and whether it may be chance."""
    gained = f"{row.metric} {row.start:.1f} -> {row.policy:.1f}, {row.difference:+.1f}"
    interval = f"[{row.difference_low:+.1f}, {row.difference_high:+.1f}]"
    return f"Best: {what}: {gained} {interval} on {row.benchmark}. {row.caveat}".rstrip()


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""The first characters of a text that a spreadsheet takes for a formula."""


def write_tables(artifact: Artifact, rows: Sequence[StudyRow]) -> None:
    """A row for each metric of each point and number of pairs; a failed point has one row, with its error."""
    flat = [
        {name: row.point[name] for name in POINT_FIELDS} | {k: v for k, v in vars(row).items() if k != "point"}
        for row in rows
    ]
    table = pa.Table.from_pylist([row | {"differences": json.dumps(list(row["differences"]))} for row in flat])
    parquet, csv = BytesIO(), BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    pyarrow.csv.write_csv(without_formulas(table), csv)
    for name, file in (("table.parquet", parquet), ("table.csv", csv)):
        write_bytes(artifact.path(name), file.getvalue())


def without_formulas(table: pa.Table) -> pa.Table:
    """The table with an apostrophe before each text that a spreadsheet would compute. Errors and names in it come from
    models and data. Source: OWASP, CSV Injection."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [text and (f"'{text}" if text.startswith(FORMULA) else text) for text in table[place].to_pylist()]
            table = table.set_column(place, field, pa.array(texts, pa.string()))
    return table


def outcome_of(item: Mapping[str, object]) -> TrialOutcome:
    """A trial's outcome from its JSON in `trials.json`."""
    return TrialOutcome(**{**item, "point": Point(**item["point"])})  # type: ignore[arg-type]
