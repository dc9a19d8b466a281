"""How hard a pair is to tell apart, and which pairs a band of hardness keeps.

In: the measures of a pair's rejected answers. In each measure, smaller is harder:

    edit_distance      the share of words that differ between the two answers (filters.py)
    flip_step          the first noise step at which the answer differs from the clean one; infinite if it never does
    reference_margin   log-probability of the chosen answer minus that of the rejected one by the reference, in nats

These are pure functions of numbers, so that pairs can be selected without running a model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution

Measure = Literal["edit_distance", "flip_step", "reference_margin"]
MEASURES: tuple[Measure, ...] = ("edit_distance", "flip_step", "reference_margin")
Band = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Select:
    """Which pairs are kept by their hardness, and in which order they are trained on. None turns a condition off. A
    value equal to a limit is kept."""

    kind: ClassVar[str] = "Select"

    name: str = execution("")
    """Names the selection; it is stored beside the pairs, as `<view>+<name>`."""
    edit_distance: Band = None
    """Smallest and largest share of words that differ, 0 to 1."""
    flip_step: Band = None
    """Smallest and largest noise step at which the answer flips, 0 to 999."""
    reference_margin: Band = None
    """Smallest and largest margin of the reference, in nats."""
    by: Measure = "reference_margin"
    """The measure for `share` and `order`."""
    share: Band = None
    """The part of all pairs that is kept, from the hardest (0) to the easiest (1): `0 0.33` is the hardest third."""
    order: Literal["hash", "easy-first", "hard-first"] = "hash"
    """The order of training: shuffled by a hash of the prompt (hash), or a curriculum by the measure `by`."""

    def __post_init__(self) -> None:
        for measure in (*MEASURES, "share"):
            band = getattr(self, measure)
            if band is not None and (len(band) != 2 or not band[0] <= band[1] or math.isnan(sum(band))):
                raise ConfigError(f"{measure} {band}: must be two numbers, the smaller first")
        if self.share is not None and not 0 <= self.share[0] <= self.share[1] <= 1:
            raise ConfigError(f"share {self.share}: must be two numbers from 0 to 1")

    def used(self) -> list[Measure]:
        """The measures that are needed."""
        ranked = self.share is not None or self.order != "hash"
        return [name for name in MEASURES if getattr(self, name) is not None or (ranked and name == self.by)]

    def dropped_by(self, measures: Mapping[str, float]) -> str | None:
        """The name of the first band that the measures of a rejected answer lie outside of; None if there is none."""
        for name in MEASURES:
            band = getattr(self, name)
            if band is not None and not band[0] <= measures[name] <= band[1]:
                return name
        return None


def flip_step(clean: str, texts: Mapping[int, str | None]) -> float:
    """The smallest step whose answer differs from the clean one; infinite if there is none. Failed answers are None."""
    return next((float(step) for step in sorted(texts) if texts[step] not in (None, clean)), math.inf)


def limits_of_share(share: tuple[float, float], values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value among this share of all values, by their ranks from the smallest. Equal values
    have one fate. An empty share has limits that no value meets."""
    ordered = np.sort(np.asarray(values, np.float64))
    first, last = (round(end * len(ordered)) for end in share)
    return (float(ordered[first]), float(ordered[last - 1])) if first < last else (math.inf, -math.inf)


def ranks_of(config: Select, values: Sequence[float]) -> list[float]:
    """The place of each pair in the curriculum, from 0 to below 1, by the hardness of all pairs. Equal ones keep their
    order. Without a curriculum all are 0."""
    if config.order == "hash":
        return [0.0] * len(values)
    sign = 1 if config.order == "hard-first" else -1
    ranks = np.empty(len(values))
    ranks[np.argsort(sign * np.asarray(values, np.float64), kind="stable")] = np.arange(len(values)) / len(values)
    return ranks.tolist()


def quantiles(values: Sequence[float]) -> list[float]:
    """The smallest value, the median and the largest value."""
    ordered = np.sort(np.asarray(values, np.float64))
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in (0, 0.5, 1)]


def hardest(measures: Sequence[Mapping[str, Any]], by: Measure) -> float:
    """The hardness of a pair: that of its hardest rejected answer. It is 0 if it is not measured."""
    return min(item[by] or 0.0 for item in measures)
