"""What the page of a run shows, as plain data: `ReportContent` and its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seva_ray.core.artifacts import StageTime
from seva_ray.pairs.files import Origin
from seva_ray.pairs.verdicts import VERDICTS
from seva_ray.scoring.intervals import Comparison


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """What happened to every prompt in one view."""

    view: str
    num_prompts: int
    verdicts: Mapping[str, int]
    """Number of prompts by verdict. The numbers add up to `num_prompts`."""

    def __post_init__(self) -> None:
        if unknown := set(self.verdicts) - set(VERDICTS):
            raise ValueError(f"view {self.view}: unknown verdict: {', '.join(sorted(unknown))}")
        if min(self.verdicts.values(), default=0) < 0:
            raise ValueError(f"view {self.view}: a count is negative: {dict(self.verdicts)}")
        total = sum(self.verdicts.values())
        if total != self.num_prompts:
            raise ValueError(f"view {self.view}: the verdicts add up to {total}, not to {self.num_prompts} prompts")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its chosen and its rejected response."""

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
    """The scores of a policy, or of several that were trained alike, against the base model on one benchmark."""

    benchmark: str
    comparisons: Sequence[Comparison]
    protocol: str = ""
    """The rules of asking and scoring. Numbers of two protocols are never compared."""
    notes: Sequence[str] = ()
    """Sentences under the table: who judged, which answers changed."""
    num_policies: int = 1
    """Number of policies that were trained alike. If it is above 1, the comparisons are `Repeated`."""
    unit: str = "images"
    """What the bootstrap resamples, in the plural."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question that only one of the two models answers right: a changed answer."""

    prompt_id: str
    question: str
    benchmark: str
    image_png: bytes
    start: str
    policy: str
    gained: bool
    """Whether the policy is the model that is right."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Numbers of words in both models' answers to one benchmark."""

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
    """All that the page shows. The page says so if a part is empty."""

    title: str
    summary: Sequence[str] = ()
    """Sentences at the top of the page, the most important first."""
    funnels: Sequence[Funnel] = ()
    origin: Origin = "self"
    failures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The most frequent reasons why rows failed, by the name of the artifact."""
    samples: Sequence[Sample] = ()
    training: Sequence[Mapping[str, Any]] = ()
    """The rows that TRL logs: `step`, `loss`, `rewards/margins` and so on."""
    scores: Sequence[ScoreTable] = ()
    consistency: Sequence[ScoreTable] = ()
    """How much sampled answers to the same question agree."""
    lengths: Sequence[Lengths] = ()
    hallucinated: Sequence[Hallucinated] = ()
    flips: Sequence[Flip] = ()
    seconds: Sequence[StageTime] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    places: Sequence[tuple[str, str]] = ()
    """What lies elsewhere under the root, as words, with the path from the page."""
    drawn_from: str = ""
    """Fingerprint of everything that the page depends on; empty if it is to be drawn again."""
