"""results: what an evaluation found, as text: a table for the terminal, and one sentence for each benchmark.

In: the artifacts `scores/<benchmark>/<policy>`, `repeats/<benchmark>/<name>` and `consistency/<part>/<policy>`.
Out: lines.
"""

import math
from collections.abc import Sequence

from seva_ray.core.artifacts import Artifact
from seva_ray.scoring.intervals import Comparison
from seva_ray.stages.score_files import benchmark_of, read_comparisons, title_of

HEADLINES = {"pope-": "POPE accuracy"}
"""The main metric of a benchmark, by the beginning of the benchmark's name. For other benchmarks it is the first."""


def result_table(scores: Artifact) -> list[str]:
    """Returns a line for every metric of one benchmark: start, policy, difference, and the difference's 95%
    interval."""
    rows = read_comparisons(scores)
    width = max(len(row.metric) for row in rows)
    head = f"{'':{width}}  {'start':>7}  {'policy':>7}  difference [95% interval]"
    return [
        f"{title_of(scores)}, {rows[0].num_images:,} images",
        f"  {head}",
        *(f"  {row.metric:{width}}  {number(row.start):>7}  {number(row.policy):>7}  {change(row)}" for row in rows),
    ]


def headlines(scores: Sequence[Artifact]) -> list[str]:
    """Returns one sentence for each benchmark: its main metric of both models, and how sure the difference is."""
    return [headline(item, main_row(item)) for item in scores]


def agreements(consistency: Sequence[Artifact]) -> list[str]:
    """Returns one sentence for each measure of how far sampled answers agree."""
    return [headline(item, row) for item in consistency for row in read_comparisons(item)]


def main_row(scores: Artifact) -> Comparison:
    rows, benchmark = read_comparisons(scores), benchmark_of(scores)
    wanted = [metric for start, metric in HEADLINES.items() if benchmark.startswith(start)]
    return next((row for row in rows if row.metric in wanted), rows[0])


def headline(scores: Artifact, row: Comparison) -> str:
    values = f"{number(row.start)} -> {number(row.policy)}, {change(row).strip()}"
    sentence = f"{row.metric} on {benchmark_of(scores)}: {values}"
    return sentence if row.excludes_zero else f"{sentence}: not distinguishable from no change"


def change(row: Comparison) -> str:
    low, high = signed(row.difference_low), signed(row.difference_high)
    return f"{signed(row.difference):>5} [{low}, {high}]"


def number(value: float) -> str:
    """The value with one decimal, in characters that every terminal can show."""
    return f"{value:.1f}" if math.isfinite(value) else "n/a"


def signed(value: float) -> str:
    """The same with a sign. A small loss that rounds to zero is +0.0, not -0.0."""
    return f"{round(value, 1) + 0.0:+.1f}" if math.isfinite(value) else "n/a"
