"""What a study found, as plain data: rows for each point on each number of pairs, and what the study's page shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from seva_ray.benchmarks.base import gain
from seva_ray.core.artifacts import StageTime
from seva_ray.scoring.intervals import Comparison
from seva_ray.studies.space import SWAPPED, strength

POINT_FIELDS = (
    "arm", "num_negatives", "beta", "learning_rate", "lora_rank", "loss", "num_pairs", "prompt_seed", "source",
    "method",
)  # fmt: skip
"""The fields that say which point a row is of. `num_pairs` is the number that was requested, None for all."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One metric of one point: means over the training seeds, and their difference with its 95% interval.

    The fields are columns of the study's table: `start` is the base model, and `policy` is the trained model."""

    point: Mapping[str, Any]
    """The point's values by POINT_FIELDS."""
    benchmark: str = ""
    metric: str = ""
    start: float = float("nan")
    policy: float = float("nan")
    difference: float = float("nan")
    """The policy's score minus the base model's, in points."""
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    differences: Sequence[float] = ()
    """The difference with each training seed."""
    trained_pairs: float = float("nan")
    """Pairs that were trained on, mean over the seeds: a weak augmentation makes fewer than were requested."""
    ahead: float = float("nan")
    """How much better the best point is than this one in the objective, seed by seed; nan for the best point itself and
    for other metrics."""
    ahead_low: float = float("nan")
    ahead_high: float = float("nan")
    error: str = ""
    """Why the row has no numbers; empty if it has."""

    @property
    def measured(self) -> bool:
        return not self.error and all(map(math.isfinite, (self.start, self.difference)))

    @property
    def gain(self) -> float:
        """The same as a `Comparison` has."""
        return gain(self.metric, self.difference)

    @property
    def excludes_zero(self) -> bool:
        """The same as a `Comparison` has."""
        return self.difference_low > 0 or self.difference_high < 0

    @property
    def caveat(self) -> str:
        """What a headline about this row must say beside its numbers; empty if the row is a gain beyond chance."""
        if not all(map(math.isfinite, (self.difference_low, self.difference_high))):
            return "It has no 95% interval, so it is not distinguishable from no gain."
        if not self.excludes_zero:
            return "The 95% interval holds 0, so it is not distinguishable from no gain."
        return "It is worse than the base model." if self.gain < 0 else ""

    @property
    def asked(self) -> float:
        """Number of pairs that was requested; infinite for all."""
        return math.inf if (number := self.point["num_pairs"]) is None else number

    @property
    def num_trained(self) -> float:
        """Number of pairs trained on; nan if it is not known and all pairs were requested."""
        if math.isfinite(self.trained_pairs):
            return self.trained_pairs
        return self.asked if math.isfinite(self.asked) else math.nan

    @property
    def setting(self) -> tuple[Any, ...]:
        """The point without its number of pairs."""
        return tuple(self.point[name] for name in POINT_FIELDS if name != "num_pairs")


@dataclass(frozen=True, kw_only=True)
class ViewFacts:
    """How the responses in one rejected view differ from the clean ones, over all base models."""

    view: str
    num_prompts: int
    num_kept: int
    """Number of prompts whose two responses are unequal and pass the filters."""
    judged: Mapping[str, int] | None = None
    """Number of kept pairs by outcome: `chosen right`, `rejected right`, `neither`. None if the source does not know
    the right answers."""
    chosen_tokens: Sequence[int] = ()
    """Number of pairs by the length of the chosen response: place n counts those of n tokens."""
    rejected_tokens: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class StudyContent:
    """All that the page shows. A part without data is left out."""

    title: str
    objective: tuple[str, str]
    """Benchmark and metric whose gain the study looks for."""
    axes: Mapping[str, Sequence[Any]]
    """The values of each point field. A field with one value is not shown as an axis."""
    rows: Sequence[StudyRow]
    """All metrics of all points. A setting has several numbers of pairs if they are an axis or a scheduler's rungs."""
    views: Sequence[ViewFacts] = ()
    test_time: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    """The scores of the base model in each view on the objective's benchmark, compared with clean images."""
    start_tokens: Sequence[int] = ()
    """Number of the base model's responses to the objective's benchmark by length in tokens."""
    best_tokens: Sequence[int] = ()
    """The same comparison for the best policy."""
    best: Mapping[str, Any] | None = None
    """The best point by POINT_FIELDS; None if all points failed."""
    best_command: str = ""
    """The command that trains the best policy again."""
    best_directory: str = ""
    """The place to which the best policy is exported; empty if it is not exported."""
    passes_done: int = 0
    """Generation passes over training prompts that the study made."""
    passes_apart: int = 0
    """Passes that the same trials would take one by one."""
    summary: Sequence[str] = ()
    seconds: Sequence[StageTime] = ()
    total_s: float = 0.0
    """Time in which at least one stage was at work, in s."""
    hours: Mapping[str, float] = field(default_factory=dict)
    """Hours of GPUs that were held, by stage; of CPUs if there is no GPU."""
    on_gpus: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def objective_rows(content: StudyContent) -> list[StudyRow]:
    """The measured rows of the objective."""
    return [row for row in content.rows if row.measured and (row.benchmark, row.metric) == content.objective]


def planned_pairs(axes: Mapping[str, Sequence[Any]]) -> float:
    """The number of pairs on which all settings should be measured: the largest of the axis, infinite for all pairs. A
    curve may have larger numbers."""
    return max((math.inf if number is None else number for number in axes.get("num_pairs", ())), default=math.inf)


def standing(row: StudyRow, planned: float) -> tuple[bool, float]:
    """A key for sorting: it grows as the row's number of pairs comes nearer to the planned one, and numbers up to the
    planned one come after all larger numbers."""
    return row.asked <= planned, row.asked if row.asked <= planned else -row.asked


def final_rows(content: StudyContent) -> list[StudyRow]:
    """The objective's row of each setting on the planned number of pairs, or on the nearest one; the best first."""
    finals: dict[tuple[Any, ...], StudyRow] = {}
    planned = planned_pairs(content.axes)
    for row in objective_rows(content):
        if row.setting not in finals or standing(row, planned) > standing(finals[row.setting], planned):
            finals[row.setting] = row
    return sorted(finals.values(), key=lambda row: -row.gain)


def failed_rows(content: StudyContent) -> list[StudyRow]:
    """Returns one row for each point with an error, whatever its metric."""
    return list({(row.setting, row.asked): row for row in content.rows if row.error}.values())


def is_stopped(content: StudyContent, row: StudyRow) -> bool:
    """Whether a scheduler stopped the setting on fewer pairs than planned."""
    return row.asked < planned_pairs(content.axes)


def reference_of(content: StudyContent) -> dict[str, Any]:
    """The point whose values a figure of one or two axes has on the other axes: the best point, or else the first value
    of each axis."""
    return dict(content.best or {name: values[0] for name, values in content.axes.items() if values})


def reference_of_growth(content: StudyContent) -> dict[str, Any]:
    """The best point if some view was measured there on several numbers of pairs; else the first value of each axis,
    where the points of a curve are."""
    best = reference_of(content)
    sizes: dict[str, set[float]] = {}
    for row in at_reference(best, objective_rows(content), "arm"):
        sizes.setdefault(row.point["arm"], set()).add(row.asked)
    return best if any(len(found) > 1 for found in sizes.values()) else reference_of(replace(content, best=None))


def at_reference(reference: Mapping[str, Any], rows: Sequence[StudyRow], *free: str) -> list[StudyRow]:
    """The rows that differ from the reference only in these fields and in the number of pairs."""
    kept = {name: value for name, value in reference.items() if name not in (*free, "num_pairs")}
    return [row for row in rows if all(row.point[name] == value for name, value in kept.items())]


def best_rows(content: StudyContent) -> list[StudyRow]:
    """All metrics of the best point; if it was not measured on exactly its number of pairs, on the largest number."""
    best = content.best
    if best is None:
        return []
    rows = [row for row in content.rows if row.measured and all(row.point[name] == best[name] for name in best)]
    if rows:
        return rows
    rows = [row for row in content.rows if row.measured and row.setting == StudyRow(point=best).setting]
    return [row for row in rows if row.asked == max(other.asked for other in rows)]


def order_of_arm(arm: str) -> tuple[bool, bool, str, float]:
    """A key for sorting conditions: views with a strength by their strength, then views without one, then controls."""
    name, value = strength(arm.removeprefix(SWAPPED))
    return arm.startswith(SWAPPED), value is None, name, value or 0.0


def named(axis: str) -> str:
    """The name of an axis in words."""
    names = {"arm": "view", "num_pairs": "pairs", "num_negatives": "negatives", "lora_rank": "LoRA rank"}
    return names.get(axis, axis.replace("_", " "))


def shown(value: Any) -> str:
    """A value of an axis as text."""
    return "all" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
