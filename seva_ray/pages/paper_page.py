"""The page of an experiment of the paper: the authors' numbers beside ours, with our intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.pages.templates import page
from seva_ray.scoring.intervals import Comparison
from seva_ray.scoring.paper_numbers import Beside


@dataclass(frozen=True, kw_only=True)
class PaperContent:
    """What the page shows."""

    title: str
    summary: Sequence[str]
    """Sentences at the top: the claim, and what was run."""
    rows: Sequence[Beside]
    joint: Sequence["JointRow"]
    """The policies beside each other; empty if there is one."""
    others: Mapping[str, Sequence[str]]
    """A sentence on each benchmark, by the name of the policy."""
    command: str
    links: Mapping[str, str]
    """The pages with all details, by the name of the policy, relative to this page."""


@dataclass(frozen=True, kw_only=True)
class JointRow:
    """The main metric of one benchmark for several policies, each beside its own starting model."""

    benchmark: str
    metric: str
    cells: Mapping[str, str | None]
    """A text for each policy: start -> policy, and the difference with its interval. None if it was not measured."""


def joint_rows(measured: Mapping[str, Mapping[str, Comparison]]) -> list[JointRow]:
    """A row for each benchmark. `measured`: the main metric by policy and benchmark."""
    benchmarks = dict.fromkeys(name for of_policy in measured.values() for name in of_policy)
    rows = []
    for name in benchmarks:
        found = {policy: of_policy.get(name) for policy, of_policy in measured.items()}
        metric = next(row.metric for row in found.values() if row)
        rows.append(JointRow(benchmark=name, metric=metric, cells={key: cell_of(row) for key, row in found.items()}))
    return rows


def cell_of(row: Comparison | None) -> str | None:
    if row is None:
        return None
    start, policy = (f"{value:.1f}" if math.isfinite(value) else "n/a" for value in (row.start, row.policy))
    values = (row.difference, row.difference_low, row.difference_high)
    difference, low, high = (f"{value:+.1f}" if math.isfinite(value) else "n/a" for value in values)
    return f"{start} -> {policy}, {difference} [{low}, {high}]"


def render(content: PaperContent) -> str:
    """Returns one self-contained HTML page."""
    return page("paper_page.html.j2", content=content)
