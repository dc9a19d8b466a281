"""What a study has found, as plain data: a row for each point on each number of pairs, and what its report shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from seva_ray.benchmarks.base import gain
from seva_ray.core.artifacts import StageTime
from seva_ray.scoring.intervals import Comparison
from seva_ray.studies.space import SWAPPED, strength

POINT_FIELDS = (
    "arm", "num_negatives", "beta", "learning_rate", "lora_rank", "loss", "num_pairs", "prompt_seed",
)  # fmt: skip
"""Of a row: what says which point it is; `num_pairs` is what was asked for, None for all."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One metric of one point: means over the repeats, differences with their 95 % interval."""

    point: Mapping[str, Any]
    """By POINT_FIELDS."""
    benchmark: str = ""
    metric: str = ""
    start: float = float("nan")
    policy: float = float("nan")
    difference: float = float("nan")
    """Policy minus start."""
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    differences: Sequence[float] = ()
    """Of each repeat."""
    trained_pairs: float = float("nan")
    """Pairs that there were to train on, mean over the repeats: a weak augmentation has fewer than asked for."""
    ahead: float = float("nan")
    """Of the objective: by how much the best point is better than this one, repeat by repeat; nan for the best itself
    and other metrics."""
    ahead_low: float = float("nan")
    ahead_high: float = float("nan")
    error: str = ""
    """Why there are no numbers."""

    @property
    def measured(self) -> bool:
        return not self.error and all(map(math.isfinite, (self.start, self.difference)))

    @property
    def gain(self) -> float:
        """As of a `Comparison`."""
        return gain(self.metric, self.difference)

    @property
    def excludes_zero(self) -> bool:
        """As of a `Comparison`."""
        return self.difference_low > 0 or self.difference_high < 0

    @property
    def caveat(self) -> str:
        """What a headline about this row must say beside its numbers; empty if the row is a gain beyond chance."""
        if not all(map(math.isfinite, (self.difference_low, self.difference_high))):
            return "It has no 95 % interval, so it is not distinguishable from no gain."
        if not self.excludes_zero:
            return "The 95 % interval holds 0, so it is not distinguishable from no gain."
        return "It is worse than the base model." if self.gain < 0 else ""

    @property
    def asked(self) -> float:
        """Pairs asked for; infinite for all."""
        return math.inf if (number := self.point["num_pairs"]) is None else number

    @property
    def num_trained(self) -> float:
        """Pairs trained on; nan where that is neither known nor asked for."""
        if math.isfinite(self.trained_pairs):
            return self.trained_pairs
        return self.asked if math.isfinite(self.asked) else math.nan

    @property
    def setting(self) -> tuple[Any, ...]:
        """The point whatever its number of pairs."""
        return tuple(self.point[name] for name in POINT_FIELDS if name != "num_pairs")


@dataclass(frozen=True, kw_only=True)
class ViewFacts:
    """Of one rejected view: how its answers differ from the clean ones, over all starting models."""

    view: str
    num_prompts: int
    num_kept: int
    """Prompts whose two answers are unequal, and pass the filters."""
    judged: Mapping[str, int] | None = None
    """Kept pairs with a known right answer by outcome: `chosen right`, `rejected right`, `neither`; None where the
    source does not know."""
    chosen_tokens: Sequence[int] = ()
    """Pairs by the length of the chosen response: place n counts those of n tokens."""
    rejected_tokens: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class StudyContent:
    """All that the page shows; an empty part is left out or said to be empty."""

    title: str
    objective: tuple[str, str]
    """Benchmark and metric."""
    axes: Mapping[str, Sequence[Any]]
    """Values of each point field; those with one value are not shown as axes."""
    rows: Sequence[StudyRow]
    """All metrics of all points; several numbers of pairs of one setting are the rungs of a scheduler, or an axis."""
    views: Sequence[ViewFacts] = ()
    test_time: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    """By view: the starting model on the objective's benchmark seen in that view, against itself on clean images."""
    start_tokens: Sequence[int] = ()
    """Responses of the starting model to the objective's benchmark, by length; likewise the best policy's."""
    best_tokens: Sequence[int] = ()
    best: Mapping[str, Any] | None = None
    """The best point, by POINT_FIELDS."""
    best_command: str = ""
    """What trains the best policy again."""
    best_directory: str = ""
    passes_done: int = 0
    """Generation passes over training prompts that the study made; the same trials one by one: `passes_apart`."""
    passes_apart: int = 0
    summary: Sequence[str] = ()
    seconds: Sequence[StageTime] = ()
    total_s: float = 0.0
    """In which any of the stages was at work."""
    hours: Mapping[str, float] = field(default_factory=dict)
    """By stage: of GPUs (CPUs, where there are none) that were held for it."""
    on_gpus: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def objective_rows(content: StudyContent) -> list[StudyRow]:
    """The measured rows of the objective."""
    return [row for row in content.rows if row.measured and (row.benchmark, row.metric) == content.objective]


def planned_pairs(axes: Mapping[str, Sequence[Any]]) -> float:
    """On which all settings are to be measured: the most of the axis, infinite for all. A curve may go beyond it."""
    return max((math.inf if number is None else number for number in axes.get("num_pairs", ())), default=math.inf)


def standing(row: StudyRow, planned: float) -> tuple[bool, float]:
    """The greater, the nearer to what was planned: from below rather than beyond it."""
    return row.asked <= planned, row.asked if row.asked <= planned else -row.asked


def final_rows(content: StudyContent) -> list[StudyRow]:
    """Of each setting, the objective on the planned number of pairs, or what is nearest to it; the best first."""
    finals: dict[tuple[Any, ...], StudyRow] = {}
    planned = planned_pairs(content.axes)
    for row in objective_rows(content):
        if row.setting not in finals or standing(row, planned) > standing(finals[row.setting], planned):
            finals[row.setting] = row
    return sorted(finals.values(), key=lambda row: -row.gain)


def failed_rows(content: StudyContent) -> list[StudyRow]:
    """One row for each point with an error, whatever its metric."""
    return list({(row.setting, row.asked): row for row in content.rows if row.error}.values())


def is_stopped(content: StudyContent, row: StudyRow) -> bool:
    """Whether a scheduler let it have fewer pairs than planned."""
    return row.asked < planned_pairs(content.axes)


def reference_of(content: StudyContent) -> dict[str, Any]:
    """The point that figures of one or two axes keep the others at: the best, else the first value of each axis."""
    return dict(content.best or {name: values[0] for name, values in content.axes.items() if values})


def reference_of_growth(content: StudyContent) -> dict[str, Any]:
    """The same where some view was measured there on several numbers of pairs; else the first values of the axes, at
    which a curve's points are."""
    best = reference_of(content)
    sizes: dict[str, set[float]] = {}
    for row in at_reference(best, objective_rows(content), "arm"):
        sizes.setdefault(row.point["arm"], set()).add(row.asked)
    return best if any(len(found) > 1 for found in sizes.values()) else reference_of(replace(content, best=None))


def at_reference(reference: Mapping[str, Any], rows: Sequence[StudyRow], *free: str) -> list[StudyRow]:
    """The rows that differ from the reference in these fields and in the number of pairs alone."""
    kept = {name: value for name, value in reference.items() if name not in (*free, "num_pairs")}
    return [row for row in rows if all(row.point[name] == value for name, value in kept.items())]


def best_rows(content: StudyContent) -> list[StudyRow]:
    """All metrics of the best point; where it was not measured on just its number of pairs, on the largest."""
    best = content.best
    if best is None:
        return []
    rows = [row for row in content.rows if row.measured and all(row.point[name] == best[name] for name in best)]
    if rows:
        return rows
    rows = [row for row in content.rows if row.measured and row.setting == StudyRow(point=best).setting]
    return [row for row in rows if row.asked == max(other.asked for other in rows)]


def order_of_arm(arm: str) -> tuple[bool, bool, str, float]:
    """For sorting: those with a dial by it, then those without, then controls."""
    name, value = strength(arm.removeprefix(SWAPPED))
    return arm.startswith(SWAPPED), value is None, name, value or 0.0


def named(axis: str) -> str:
    """An axis in words."""
    names = {"arm": "view", "num_pairs": "pairs", "num_negatives": "negatives", "lora_rank": "LoRA rank"}
    return names.get(axis, axis.replace("_", " "))


def shown(value: Any) -> str:
    """A value of an axis."""
    return "all" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
