"""A noise ladder: the view of a pair whose rejected answer is the first one, at more and more noise, that differs.

`ladder-100:900:200` has the noise steps 100, 300, ..., 900. Each prompt is asked at the first step, and then at the
next ones until its answer differs from the answer to the clean image. So each image gets the weakest noise that changes
the answer, and not one noise step for all. The answers at a step are those of the plain view `diffusion-<step>`.
"""

import re
from dataclasses import dataclass
from typing import Self

from seva_ray.core.errors import ConfigError

USAGE = "ladder-<first step>:<last step>:<stride>"


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The noise steps of a ladder."""

    first: int
    last: int
    stride: int

    @classmethod
    def of(cls, label: str) -> Self | None:
        """The ladder of a view's label; None if it is another view. Raises: ConfigError if it has fewer than two
        steps, or if the last one is not reached."""
        found = re.fullmatch(r"ladder-(0|[1-9]\d*):([1-9]\d*):([1-9]\d*)", label)
        if not found:
            return None
        first, last, stride = map(int, found.groups())
        if first >= last or (last - first) % stride:
            raise ConfigError(
                f"view {label!r}: must be {USAGE}, with the first step below the last one, and a whole number of "
                "strides between them"
            )
        return cls(first=first, last=last, stride=stride)

    @property
    def steps(self) -> range:
        return range(self.first, self.last + 1, self.stride)

    @property
    def below(self) -> str:
        """The view with the answers up to the step before the last one."""
        before = self.last - self.stride
        return plain_label(before) if before == self.first else f"ladder-{self.first}:{before}:{self.stride}"


def plain_label(step: int) -> str:
    return f"diffusion-{step}"


def plain_view(label: str) -> str:
    """The view in which a prompt is asked for the answers of this view: of a ladder, the one with its last step."""
    ladder = Ladder.of(label)
    return plain_label(ladder.last) if ladder else label


def views_below(label: str) -> list[str]:
    """The views whose answers are needed first, in the order in which they are made; empty if it is no ladder."""
    ladder = Ladder.of(label)
    return [*views_below(ladder.below), ladder.below] if ladder else []
