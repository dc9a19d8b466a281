"""How a score grows with the number of pairs: a saturating power law through measured points, and its forecast.

score(n) = a - b * n^(-c), with b >= 0 and c > 0: the score rises towards a, ever more slowly. If low is good,
it falls: score(n) = a + b * n^(-c).
Source: Hestness et al., Deep Learning Scaling is Predictable, Empirically, 2017 (arXiv 1712.00409); Rosenfeld et al.,
A Constructive Prediction of the Generalization Error Across Scales, 2019 (arXiv 1909.12673). Theirs describe an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seva_ray.core.seeds import generator

MIN_SIZES = 3
"""How many different numbers of pairs the fit of three unknowns needs."""
EXPONENTS = np.geomspace(0.05, 5, 120)
"""Values of c to try. Below them the curve is that of a logarithm; above them it reaches a at the smallest n."""
Z_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A score at a number of pairs, with half the width of its 95% interval."""

    num_pairs: float
    score: float
    half_width: float


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """The fitted curve from the smallest n to twice the largest, with 95% intervals."""

    a: float
    b: float
    """It is 0 if the scores do not get better: the curve is then flat."""
    c: float
    num_pairs: Sequence[float]
    curve: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    gain: float
    """How much better the fitted score is at twice the largest n than at the largest n; never below 0."""
    gain_low: float
    gain_high: float


def fit(
    measured: Sequence[Measurement],
    *,
    low_is_good: bool = False,
    num_resamples: int = 1000,
    num_places: int = 60,
    seed: int = 0,
) -> ScalingLaw | None:
    """A fit by weighted least squares, or None with fewer than three different n among the finite points.

    The interval holds the percentiles of fits to points that are drawn again, each independently from its own normal
    distribution. Points that share their test images err alike, which cancels in a gain: its interval is too wide
    rather than too narrow.
    """
    points = [
        point
        for point in measured
        if point.num_pairs > 0 and all(map(math.isfinite, (point.num_pairs, point.score, point.half_width)))
    ]
    if len({point.num_pairs for point in points}) < MIN_SIZES:
        return None
    sizes, scores, halves = np.array([(p.num_pairs, p.score, p.half_width) for p in points], dtype=np.float64).T
    rng = generator(seed, "scaling law")
    noise = rng.standard_normal((num_resamples, len(points))) * halves / Z_95
    # An interval without width, such as that of a model that is always right, must not outweigh all the others.
    floored = np.maximum(halves, halves.max() / 10)
    weights = 1 / floored**2 if floored.all() else np.ones(len(points))
    largest = sizes.max()
    sign = -1 if low_is_good else 1
    a, b, c = _fits(sizes / largest, sign * np.vstack([scores, scores + noise]), weights / weights.sum())

    places = np.geomspace(sizes.min(), 2 * largest, num_places)
    curves = sign * (a[:, None] - b[:, None] * (places / largest) ** -c[:, None])
    gains = b * (1 - 2.0**-c)
    low, high = np.percentile(curves[1:], [2.5, 97.5], axis=0)
    gain_low, gain_high = np.percentile(gains[1:], [2.5, 97.5])
    return ScalingLaw(
        a=float(sign * a[0]),
        b=float(b[0] * largest ** c[0]),
        c=float(c[0]),
        num_pairs=places.tolist(),
        curve=curves[0].tolist(),
        low=low.tolist(),
        high=high.tolist(),
        gain=float(gains[0]),
        gain_low=float(gain_low),
        gain_high=float(gain_high),
    )


def _fits(sizes: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The a, b and c of each row of scores. For one c the curve is a line in n^-c, so each c has its best a and b.

    Shapes: sizes and weights (P,), weights sum to 1; scores (R, P); results (R,).
    """
    falling_CP = sizes ** -EXPONENTS[:, None]
    centre_C = falling_CP @ weights
    centred_CP = falling_CP - centre_C[:, None]
    means_R = scores @ weights
    slopes_RC = -((scores - means_R[:, None]) * weights) @ centred_CP.T / ((centred_CP**2) @ weights)
    b_RC = np.maximum(slopes_RC, 0)
    # The variance that a fit explains: b * b * variance with a free slope, and nothing if b is held at 0.
    best_R = np.argmax(b_RC**2 * ((centred_CP**2) @ weights), axis=1)
    b_R = b_RC[np.arange(len(scores)), best_R]
    return means_R + b_R * centre_C[best_R], b_R, EXPONENTS[best_R]
