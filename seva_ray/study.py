"""What a study has found, as plain data: a row for each point on each number of pairs, and what its report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seva_ray.report import StageTime
from seva_ray.statistics import Comparison

POINT_FIELDS = (
    "arm", "num_negatives", "beta", "learning_rate", "lora_rank", "loss", "num_pairs", "prompt_seed",
)  # fmt: skip
"""Of a row: what says which point it is; `num_pairs` is what was asked for, None for all."""


@dataclass(frozen=True, kw_only=True)
class Row:
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
    error: str = ""
    """Why there are no numbers."""


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
    rows: Sequence[Row]
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
    """Generation passes over training prompts that the study needed; the same trials one by one: `passes_apart`."""
    passes_apart: int = 0
    summary: Sequence[str] = ()
    seconds: Sequence[StageTime] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
