"""The starting model against the policy, with intervals: a paired bootstrap over images.

In: two tallies of one benchmark over the same images, and its metrics function. Out: one row per metric. Questions
about one image are not independent, so whole images are resampled. Both models get the same resample, so that the
difficulty of an image cancels in the difference.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from seva_ray.benchmarks.base import Tally, gain
from seva_ray.core.seeds import generator

CONFIDENCE = 0.95
STUDENT_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95% quantiles for 1 to 10 degrees of freedom."""
CHUNK_BYTES = 64 * 2**20
"""Memory for resample weights at one time, in bytes. The result does not depend on it."""
MOST_IMAGES = 100_000
"""Largest number of images that a resample draws one by one. Of more, those with equal counts are drawn together, which
has the same distribution: the images of 10 million questions have some hundred different rows of counts."""
DISTINCT_ROWS = 2**16
"""Number of rows of counts that are compared with each other at once."""

Metrics = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of both models. Each value and the difference have a 95% interval; nan if undefined."""

    metric: str
    start: float
    start_low: float
    start_high: float
    policy: float
    policy_low: float
    policy_high: float
    difference: float
    """Policy minus start; nan if it has no interval, because it means nothing without one."""
    difference_low: float
    difference_high: float
    num_images: int

    @property
    def gain(self) -> float:
        """The difference, or its negative if lower is better."""
        return gain(self.metric, self.difference)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of the difference is on one side of 0; False if it is undefined."""
        return self.difference_low > 0 or self.difference_high < 0


def paired_bootstrap(
    start: Tally, policy: Tally, metrics: Metrics, *, num_resamples: int = 2000, seed: int = 0
) -> list[Comparison]:
    """Compare two models on the same images by resampling the images with replacement."""
    return pooled_bootstrap(start, [policy], metrics, num_resamples=num_resamples, seed=seed)


def pooled_bootstrap(
    start: Tally, policies: Sequence[Tally], metrics: Metrics, *, num_resamples: int = 2000, seed: int = 0
) -> list[Comparison]:
    """Compare a model with the average of several policies, such as the training seeds of one setting.

    Intervals cover the choice of images, but not of seeds: with few seeds, a bootstrap over them would be too narrow.
    They are percentiles of the resamples in which the metric is defined. An interval is nan if the metric is nan, if it
    is undefined in more than 5% of the resamples, or if there are fewer than two images.

    Raises: ValueError if the tallies do not have the same distinct images and counts, in the same order.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3 (percentile interval).
    """
    of_start, *of_policies = _resampled([start, *policies], metrics, num_resamples, seed)
    return [
        _comparison(metric, of_start[metric], np.mean([of[metric] for of in of_policies], axis=0), len(start.image_ids))
        for metric in of_start
    ]


@dataclass(frozen=True, kw_only=True)
class Repeated(Comparison):
    """One metric as the mean over several repeats of training, perhaps from several starting models.

    The interval of the difference covers both the choice of images and of repeats. Half its width is the square root of
    the sum of two squares: half the width of the bootstrap interval over images, and of Student's interval over
    repeats. With one repeat it is the bootstrap interval alone.
    """

    differences: tuple[float, ...]
    """The difference of each repeat."""


def repeated_bootstrap(
    starts: Sequence[Tally], policies: Sequence[Tally], metrics: Metrics, *, num_resamples: int = 2000, seed: int = 0
) -> list[Repeated]:
    """Compare each policy with its own start on the same images, and pool the repeats.

    Raises: ValueError as in `pooled_bootstrap`, and if the numbers of starts and policies differ.
    """
    of_all = _resampled([*starts, *policies], metrics, num_resamples, seed)
    of_pairs = list(zip(of_all[: len(starts)], of_all[len(starts) :], strict=True))
    found = []
    for metric in of_all[0]:
        start, policy = (np.mean([side[metric] for side in sides], axis=0) for sides in zip(*of_pairs, strict=True))
        pooled = _comparison(metric, start, policy, len(starts[0].image_ids))
        differences = tuple(float(policy[metric][0] - start[metric][0]) for start, policy in of_pairs)
        half = student_half_width(differences) if len(differences) > 1 else 0.0
        low, high = (
            pooled.difference + sign * float(np.hypot(pooled.difference - end, half))
            for sign, end in ((-1, pooled.difference_low), (1, pooled.difference_high))
        )
        ends = {"difference_low": low, "difference_high": high}
        found.append(Repeated(**(vars(pooled) | ends), differences=differences))
    return found


def student_half_width(values: Sequence[float]) -> float:
    """Half the width of Student's 95% interval for the mean of at least two values."""
    return student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def student_t(df: int) -> float:
    """The two-sided 95% quantile. Source from 11 degrees of freedom on: Abramowitz and Stegun, 26.7.5."""
    if df <= len(STUDENT_T_95):
        return STUDENT_T_95[df - 1]
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, 1))


@dataclass
class Distinct:
    """The different rows of counts, and how many images have each. All tallies of an image are one row."""

    images: Counter[bytes] = field(default_factory=Counter)
    """Number of images, by the bytes of their row of float64."""

    def add(self, rows: np.ndarray) -> None:
        """`rows`: float64, shape (images, statistics of all tallies)."""
        for start in range(0, len(rows), DISTINCT_ROWS):
            found, times = np.unique(rows[start : start + DISTINCT_ROWS], axis=0, return_counts=True)
            for row, number in zip(found, times.tolist(), strict=True):
                self.images[row.tobytes()] += number

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows, in an order that depends on nothing else, and the number of images of each."""
        keys = sorted(self.images)
        rows = np.frombuffer(b"".join(keys)).reshape(len(keys), -1)
        return rows, np.array([self.images[key] for key in keys])


def bootstrap_of_distinct(
    names: Sequence[str], distinct: Distinct, metrics: Metrics, *, num_resamples: int, seed: int
) -> list[Comparison]:
    """The same as `paired_bootstrap`, of more than MOST_IMAGES images, whose two tallies are one row each."""
    start, policy = _sums(names, *distinct.rows(), metrics, num_resamples, seed)
    total = distinct.images.total()
    return [_comparison(metric, start[metric], policy[metric], total) for metric in start]


def _resampled(
    tallies: Sequence[Tally], metrics: Metrics, num_resamples: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """The metrics of each tally: first of the tally itself, then of each resample. All tallies share the resamples."""
    first, *others = tallies
    for other in others or [first]:
        check_pair(first, other)
    if num_resamples < 1:
        raise ValueError(f"num_resamples {num_resamples} is below 1")
    every = np.concatenate([tally.counts for tally in tallies], axis=1)
    if len(every) <= MOST_IMAGES:
        return _sums(first.names, every, None, metrics, num_resamples, seed)
    distinct = Distinct()
    distinct.add(every)
    return _sums(first.names, *distinct.rows(), metrics, num_resamples, seed)


def _sums(
    names: Sequence[str], every: np.ndarray, times: np.ndarray | None, metrics: Metrics, num_resamples: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """The metrics of each tally. `every`: the rows of all tallies side by side. `times`: how many images have each row;
    None for one."""
    weights = _weights(len(every), times, num_resamples, generator(seed, "paired bootstrap"))
    # Row 0 counts every image once, so that the values and their resamples come from the same computation.
    whole = (every if times is None else times[:, None] * every).sum(axis=0, keepdims=True)
    sums = np.concatenate([whole, *(chunk @ every for chunk in weights)])
    return [
        metrics(dict(zip(names, sums[:, start : start + len(names)].T, strict=True)))
        for start in range(0, every.shape[1], len(names))
    ]


def check_pair(start: Tally, policy: Tally) -> None:
    """Raises: ValueError if the tallies do not have the same distinct images and counts, in the same order."""
    if list(start.image_ids) != list(policy.image_ids):
        raise ValueError("the tallies have different images, or another order of them")
    if len(set(start.image_ids)) != len(start.image_ids):
        raise ValueError("an image appears twice in a tally; all counts of one image belong in one row")
    if list(start.names) != list(policy.names):
        raise ValueError("the tallies have different counts")
    for tally in (start, policy):
        if tally.counts.shape != (len(tally.image_ids), len(tally.names)):
            raise ValueError(f"counts have shape {tally.counts.shape}, not (images, names)")


def _weights(
    num_rows: int, times: np.ndarray | None, num_resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each resample drew an image of each row, in chunks of shape (resamples, num_rows)."""
    chunk_size = max(1, CHUNK_BYTES // (8 * max(1, num_rows)))
    for first in range(0, num_resamples, chunk_size):
        size = min(chunk_size, num_resamples - first)
        if num_rows == 0:
            yield np.zeros((size, 0))
            continue
        num_images = num_rows if times is None else int(times.sum())
        share = np.full(num_rows, 1 / num_rows) if times is None else times / num_images
        yield rng.multinomial(num_images, share, size=size).astype(np.float64)


def _comparison(metric: str, start: np.ndarray, policy: np.ndarray, num_images: int) -> Comparison:
    (start_low, start_high), (policy_low, policy_high), (difference_low, difference_high) = (
        _interval(values, num_images) for values in (start, policy, policy - start)
    )
    return Comparison(
        metric=metric,
        start=float(start[0]),
        start_low=start_low,
        start_high=start_high,
        policy=float(policy[0]),
        policy_low=policy_low,
        policy_high=policy_high,
        difference=float(policy[0] - start[0]) if np.isfinite(difference_low) else np.nan,
        difference_low=difference_low,
        difference_high=difference_high,
        num_images=num_images,
    )


def _interval(values: np.ndarray, num_images: int) -> tuple[float, float]:
    """The percentile interval of a metric. `values[0]` is the metric itself, and the rest are its resamples."""
    defined = values[1:][np.isfinite(values[1:])]
    too_few = num_images < 2 or len(defined) < CONFIDENCE * (len(values) - 1)
    if too_few or not np.isfinite(values[0]):
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
