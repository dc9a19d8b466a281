"""What the page about the rounds of one run shows, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.scoring.intervals import Comparison


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """What one round did, as plain data."""

    name: str
    """Name of the policy."""
    start: str
    """Name of the model that the round started from."""
    pairs: str
    """Name of the pairs that it trained on."""
    num_prompts: int
    num_kept: int
    """Number of pairs that were made from the round's own answers."""
    num_equal: int
    """Number of prompts to which both answers were the same."""
    num_trained: int
    num_steps: int
    margin: float | None
    """Margin of the last step; None if none was logged."""
    chosen: float | None
    """Reward of the chosen answers in the last step."""
    has_report: bool


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """One benchmark over the rounds."""

    title: str
    main: str
    """The main metric."""
    rounds: Sequence[Sequence[Comparison]]
    """The metrics of each round's policy. Each is compared with the first model."""

    def of(self, metric: str) -> list[Comparison]:
        """One metric over the rounds."""
        return [row for of_round in self.rounds for row in of_round if row.metric == metric]


@dataclass(frozen=True, kw_only=True)
class RoundsContent:
    """All that the page shows."""

    title: str
    summary: Sequence[str]
    rounds: Sequence[RoundRow]
    scores: Sequence[RoundScores]
    command: str
    versions: Mapping[str, str]
    drawn_from: str
