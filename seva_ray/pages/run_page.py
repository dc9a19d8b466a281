"""The report of a run: one HTML file with everything in it, to open in any browser or to send to someone.

In: plain data, collected by whoever ran the stages. Out: the page as text. Every text and image comes from models and
data sets, so nothing of it is trusted: all is escaped, and the page forbids itself scripts and any request.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seva_ray.core.artifacts import StageTime
from seva_ray.core.durations import duration
from seva_ray.pages.figures import length_figure, training_curves
from seva_ray.pages.pair_cards import Answer, Picture, data_uri, sample_view
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS
from seva_ray.scoring.intervals import Comparison

NUM_HALLUCINATED = 10
"""Things that the report lists."""


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """What became of every prompt in one view."""

    view: str
    num_prompts: int
    verdicts: Mapping[str, int]
    """Prompts by verdict; they add up to `num_prompts`."""

    def __post_init__(self) -> None:
        if unknown := set(self.verdicts) - set(VERDICTS):
            raise ValueError(f"view {self.view}: no such verdict: {', '.join(sorted(unknown))}")
        if min(self.verdicts.values(), default=0) < 0:
            raise ValueError(f"view {self.view}: a count is negative: {dict(self.verdicts)}")
        total = sum(self.verdicts.values())
        if total != self.num_prompts:
            raise ValueError(f"view {self.view}: the verdicts add up to {total}, not to {self.num_prompts} prompts")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its two answers."""

    prompt_id: str
    question: str
    view: str
    verdict: str
    image_png: bytes
    augmented_png: bytes
    chosen: str
    rejected: str


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """The policy, or several that were trained alike, against the starting model on one benchmark."""

    benchmark: str
    comparisons: Sequence[Comparison]
    protocol: str = ""
    """Whose way of asking and scoring; numbers of two protocols are never compared."""
    notes: Sequence[str] = ()
    """Sentences for under the table: who judged, what flipped."""
    num_policies: int = 1
    """How many were trained alike, where the comparisons are `Repeated`."""
    unit: str = "images"
    """What the bootstrap resamples."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question that only one of the two models answers right."""

    prompt_id: str
    question: str
    benchmark: str
    image_png: bytes
    start: str
    policy: str
    gained: bool
    """Whether it is the policy that is right."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Words of both models' answers to one benchmark."""

    benchmark: str
    start: Sequence[int]
    policy: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Hallucinated:
    """How often descriptions name a thing that is not in the image, by thing."""

    benchmark: str
    start: Mapping[str, int]
    policy: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """All that the page shows; an empty part is shown as a sentence that says so."""

    title: str
    summary: Sequence[str] = ()
    """Sentences for the top of the page, the most important first."""
    funnels: Sequence[Funnel] = ()
    samples: Sequence[Sample] = ()
    training: Sequence[Mapping[str, Any]] = ()
    """The rows that TRL logs: `step`, `loss`, `rewards/margins` and so on."""
    scores: Sequence[ScoreTable] = ()
    consistency: Sequence[ScoreTable] = ()
    """How far sampled answers to the same question agree."""
    lengths: Sequence[Lengths] = ()
    hallucinated: Sequence[Hallucinated] = ()
    flips: Sequence[Flip] = ()
    seconds: Sequence[StageTime] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def render(content: ReportContent) -> str:
    """The report as one self-contained HTML page."""
    curves = training_curves(content.training)
    return page(
        "run_page.html.j2",
        content=content,
        verdicts=_shown_verdicts(content.funnels),
        samples=[_sample_view(sample) for sample in content.samples],
        curves=[(curve, data_uri(curve.svg, "image/svg+xml")) for curve in curves],
        scores=[_score_view(table) for table in content.scores],
        consistency=[_score_view(table) for table in content.consistency],
        lengths=[(of, data_uri(length_figure(of.start, of.policy), "image/svg+xml")) for of in content.lengths],
        hallucinated=[(of.benchmark, _most_named(of)) for of in content.hallucinated],
        flips=[_flip_view(flip) for flip in content.flips],
        mixed=mixed_protocols(content.scores),
        settings=flat(content.config),
        smoothed=any(curve.smoothed for curve in curves),
    )


def page(template: str, **values: Any) -> str:
    """A template of this folder, filled in; encodable as UTF-8 whatever the texts hold."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "tick": _tick,
        "count": _count,
        "share": _share,
        "duration": duration,
        "spoken": _spoken,
        "middle": _middle,
    }
    html = environment.get_template(template).render(**values)
    return html.encode("utf-8", errors="replace").decode("utf-8")


def mixed_protocols(tables: Sequence[ScoreTable]) -> list[str]:
    """A warning for every two tables that have a metric of the same name by different protocols."""
    return [
        f"{one.benchmark} and {other.benchmark} share names of metrics but not the protocol ({one.protocol}, "
        f"{other.protocol}): their numbers cannot be compared."
        for one, other in combinations(tables, 2)
        if one.protocol != other.protocol
        and {row.metric for row in one.comparisons} & {row.metric for row in other.comparisons}
    ]


def _sample_view(sample: Sample) -> dict[str, Any]:
    return sample_view(
        prompt_id=sample.prompt_id,
        question=sample.question,
        mark=sample.verdict,
        label=sample.verdict,
        about=sample.view,
        pictures=[
            Picture(caption="image", png=sample.image_png),
            Picture(caption=sample.view, png=sample.augmented_png),
        ],
        good=Answer(heading="chosen", text=sample.chosen),
        bad=Answer(heading="rejected", text=sample.rejected),
    )


def _flip_view(flip: Flip) -> dict[str, Any]:
    start, policy = Answer(heading="start", text=flip.start), Answer(heading="policy", text=flip.policy)
    return sample_view(
        prompt_id=flip.prompt_id,
        question=flip.question,
        mark="kept" if flip.gained else "failed",
        label="gained" if flip.gained else "lost",
        about=flip.benchmark,
        pictures=[Picture(caption="image", png=flip.image_png)],
        good=policy if flip.gained else start,
        bad=start if flip.gained else policy,
    )


def _shown_verdicts(funnels: Sequence[Funnel]) -> dict[str, str]:
    """Verdicts with their meanings; those of filters only where one has dropped something."""
    given = {verdict for funnel in funnels for verdict, count in funnel.verdicts.items() if count}
    return {verdict: text for verdict, text in VERDICTS.items() if verdict not in OPTIONAL or verdict in given}


def _score_view(table: ScoreTable) -> dict[str, Any]:
    return {
        "benchmark": table.benchmark,
        "notes": table.notes,
        "unit": table.unit,
        "num_images": sorted({row.num_images for row in table.comparisons}),
        "num_policies": table.num_policies,
        **forest(table.comparisons),
    }


class Interval(Protocol):
    """A difference with the ends of its interval."""

    @property
    def difference(self) -> float: ...
    @property
    def difference_low(self) -> float: ...
    @property
    def difference_high(self) -> float: ...


def forest(rows: Sequence[Interval]) -> dict[str, Any]:
    """Rows with the place of each interval on one common axis, and its ticks; places in percent of the axis' width."""
    ends = [
        end for row in rows for end in (row.difference, row.difference_low, row.difference_high) if math.isfinite(end)
    ]
    from matplotlib.ticker import MaxNLocator

    ticks = [float(tick) for tick in MaxNLocator(nbins=4).tick_values(min([0.0, *ends]), max([0.0, *ends]))]
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float | None:
        return round(100 * (value - low) / (high - low), 2) if math.isfinite(value) else None

    return {
        "ticks": [(tick, place(tick)) for tick in ticks],
        "rows": [(row, place(row.difference), place(row.difference_low), place(row.difference_high)) for row in rows],
    }


def _most_named(of: Hallucinated) -> list[tuple[str, int, int]]:
    """(thing, start, policy), the most frequent first."""
    both = [(thing, of.start.get(thing, 0), of.policy.get(thing, 0)) for thing in {**of.start, **of.policy}]
    return sorted(both, key=lambda row: (-row[1] - row[2], row[0]))[:NUM_HALLUCINATED]


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted name, value) rows."""
    rows: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows


def number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else "–"


def signed(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    rounded = f"{value:+.1f}"
    return "0.0" if float(rounded) == 0 else rounded.replace("-", "−")


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _middle(values: Sequence[int]) -> str:
    return f"{median(values):g}" if values else "–"


def _count(value: int) -> str:
    return f"{value:,}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _spoken(verdict: str) -> str:
    return verdict.replace("_", " ")
