import math
from collections.abc import Mapping

import numpy as np
import pytest

from seva_ray.studies.scaling import Z_95, Measurement, ScalingLaw, fit

SIZES = (125, 250, 500, 1000)


def measurements(scores: Mapping[int, float], half_width: float) -> list[Measurement]:
    return [Measurement(num_pairs=size, score=score, half_width=half_width) for size, score in scores.items()]


def truth(size: float) -> float:
    return 80 - 60 * size**-0.5


def law(scores: Mapping[int, float], half_width: float = 1.0) -> ScalingLaw:
    found = fit(measurements(scores, half_width))
    assert found is not None
    return found


@pytest.mark.parametrize("half_width", [0.0, 1e-6])
def test_a_curve_without_noise_is_found_again(half_width: float) -> None:
    found = law({size: truth(size) for size in SIZES}, half_width)
    assert (found.a, found.b, found.c) == pytest.approx((80, 60, 0.5), rel=0.05)
    np.testing.assert_allclose(found.curve, [truth(size) for size in found.num_pairs], atol=0.02)
    assert found.gain == pytest.approx(truth(2000) - truth(1000), abs=0.02)
    assert found.num_pairs[0] == pytest.approx(125)
    assert found.num_pairs[-1] == pytest.approx(2000)


@pytest.mark.parametrize("sizes", [(125, 250, 500), SIZES])
def test_the_interval_of_the_gain_holds_the_truth_in_about_95_of_100_repeats(sizes: tuple[int, ...]) -> None:
    rng, half, num_covered = np.random.default_rng(5), 1.0, 0
    gain = truth(2 * sizes[-1]) - truth(sizes[-1])
    for _ in range(100):
        scores = {size: truth(size) + rng.normal() * half / Z_95 for size in sizes}
        found = fit(measurements(scores, half), num_resamples=300, num_places=2)
        assert found is not None
        num_covered += found.gain_low <= gain <= found.gain_high
    assert 85 <= num_covered < 100  # an interval that always holds it is too wide


def test_a_wider_interval_of_the_points_is_a_wider_interval_of_the_gain() -> None:
    scores = {size: truth(size) for size in SIZES}
    narrow, wide = law(scores, 0.2), law(scores, 2.0)
    assert wide.gain_high - wide.gain_low > 3 * (narrow.gain_high - narrow.gain_low)
    assert all(low < value < high for low, value, high in zip(wide.low, wide.curve, wide.high))


def test_points_with_narrow_intervals_weigh_more() -> None:
    exact = measurements({size: truth(size) for size in SIZES}, 0.1)
    off = Measurement(num_pairs=700, score=90, half_width=10)
    found = fit([*exact, off])
    assert found is not None
    assert found.gain == pytest.approx(truth(2000) - truth(1000), abs=0.1)


@pytest.mark.parametrize("falling", [0.0, 4.0])
def test_scores_that_stay_or_fall_promise_no_gain(falling: float) -> None:
    found = law({size: 60 - falling * place for place, size in enumerate(SIZES)})
    assert found.b == found.gain == found.gain_low == 0
    assert found.gain_high >= 0
    assert found.curve[0] == pytest.approx(found.curve[-1])
    assert all(map(math.isfinite, [*found.low, *found.high]))


def test_two_sizes_are_too_few_whatever_the_number_of_points() -> None:
    points = measurements({125: 60, 250: 61}, 1.0)
    assert fit([*points, *points, Measurement(num_pairs=500, score=math.nan, half_width=1.0)]) is None
    assert fit([]) is None


def test_the_same_points_and_seed_give_the_same_interval() -> None:
    points = measurements({size: truth(size) for size in SIZES}, 1.0)
    assert fit(points) == fit(points)
    assert fit(points) != fit(points, seed=1)


def test_where_low_is_good_the_curve_falls_to_the_mirrored_gain() -> None:
    risen = measurements({size: truth(size) for size in SIZES}, 1.0)
    fallen = [Measurement(num_pairs=point.num_pairs, score=-point.score, half_width=1.0) for point in risen]
    up, down = fit(risen), fit(fallen, low_is_good=True)
    assert up is not None
    assert down is not None
    assert down.curve == pytest.approx([-score for score in up.curve])
    assert (down.a, down.b, down.gain) == pytest.approx((-up.a, up.b, up.gain))
    assert all(low <= score <= high for low, score, high in zip(down.low, down.curve, down.high))
    assert fit(fallen).gain == 0  # type: ignore[union-attr]
