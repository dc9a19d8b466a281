"""The page of all runs under a root: one row for each policy, one table for each benchmark, and links to the pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from seva_ray.pages.templates import forest, page
from seva_ray.scoring.intervals import Comparison


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One policy, as plain data."""

    name: str
    start: str
    """Name of the base model."""
    pairs: str
    """Name of the pairs, without `pairs/`."""
    num_pairs: int
    num_steps: int
    finished: float
    """When training ended, as Unix time in s."""
    finished_text: str
    """The time as a date and a time of day, in UTC."""
    has_report: bool
    scores: dict[str, Comparison] = field(default_factory=dict)
    """The main metric of each benchmark, by the benchmark's title."""


@dataclass(frozen=True, kw_only=True)
class IndexContent:
    """All that the page shows."""

    title: str
    summary: Sequence[str]
    runs: Sequence[RunRow]
    """All runs, the newest first."""
    studies: Sequence[str]
    """Names of studies that have a page."""
    rounds: Sequence[str] = ()
    """Names of runs of several rounds that have a page."""
    faults: Sequence[str] = ()
    """A line for each policy that cannot be read."""


def render(content: IndexContent) -> str:
    """The index as one self-contained HTML page. Its links are relative to the root."""
    return page(
        "index_page.html.j2",
        content=content,
        benchmarks=[compared(content.runs, title) for title in titles(content.runs)],
        reports={run.name: quote(f"reports/{run.name}/index.html") for run in content.runs if run.has_report},
        studies=[(name, quote(f"studies/{name}/index.html")) for name in content.studies],
        rounds=[(name, quote(f"rounds/{name}/index.html")) for name in content.rounds],
    )


def titles(runs: Sequence[RunRow]) -> list[str]:
    return sorted({title for run in runs for title in run.scores})


def compared(runs: Sequence[RunRow], title: str) -> dict[str, Any]:
    """The runs with a score on one benchmark, the largest difference first, on one axis."""
    of = sorted((run for run in runs if title in run.scores), key=lambda run: -run.scores[title].difference)
    rows = [run.scores[title] for run in of]
    return {"title": title, "metric": rows[0].metric, "names": [run.name for run in of], **forest(rows)}
