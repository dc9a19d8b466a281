from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from seva_ray.benchmarks.base import Tally
from seva_ray.scoring import intervals as statistics
from seva_ray.scoring.intervals import Comparison, paired_bootstrap, pooled_bootstrap, repeated_bootstrap, student_t

NAMES = ("right", "asked")


def tally(right: np.ndarray, asked: np.ndarray, first_id: int = 0) -> Tally:
    counts = np.stack([right, asked], axis=1).astype(np.float64)
    return Tally(image_ids=[f"image-{first_id + i}" for i in range(len(counts))], names=NAMES, counts=counts)


def accuracy(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    asked = np.asarray(sums["asked"], dtype=np.float64)
    percent = np.full(asked.shape, np.nan)
    np.divide(100 * sums["right"], asked, out=percent, where=asked != 0)
    return {"accuracy": percent}


def two_models(rng: np.random.Generator, num_images: int, gain: float = 0.1) -> tuple[Tally, Tally]:
    """Answers to 1-6 questions per image; an image that is hard for one model is hard for the other."""
    asked = rng.integers(1, 7, size=num_images)
    ease = rng.uniform(0.0, 1 - gain, size=num_images)
    start, policy = rng.binomial(asked, ease), rng.binomial(asked, ease + gain)
    return tally(start, asked), tally(policy, asked)


def width(row: Comparison) -> float:
    return row.difference_high - row.difference_low


def test_the_intervals_are_those_of_resampling_images_one_by_one() -> None:
    start, policy = two_models(np.random.default_rng(1), num_images=40)
    row = paired_bootstrap(start, policy, accuracy, num_resamples=20_000)[0]
    rng = np.random.default_rng(2)
    replicates = []
    for _ in range(20_000):
        drawn = rng.integers(40, size=40)
        right_start, asked = start.counts[drawn].sum(axis=0)
        right_policy, _ = policy.counts[drawn].sum(axis=0)
        replicates.append((100 * right_start / asked, 100 * right_policy / asked))
    replicated = np.array(replicates)
    expected = np.quantile(np.c_[replicated, replicated[:, 1] - replicated[:, 0]], [0.025, 0.975], axis=0)
    found = [
        [row.start_low, row.policy_low, row.difference_low],
        [row.start_high, row.policy_high, row.difference_high],
    ]
    np.testing.assert_allclose(found, expected, atol=0.4)  # widths are 15-30; a quantile of 20,000 is known to 0.15


def test_the_values_are_the_metrics_of_all_images_counted_once() -> None:
    start, policy = two_models(np.random.default_rng(1), num_images=40)
    row = paired_bootstrap(start, policy, accuracy)[0]
    assert row.metric == "accuracy"
    assert row.num_images == 40
    assert row.start == pytest.approx(100 * start.counts[:, 0].sum() / start.counts[:, 1].sum())
    assert row.policy == pytest.approx(100 * policy.counts[:, 0].sum() / policy.counts[:, 1].sum())
    assert row.difference == pytest.approx(row.policy - row.start)
    assert row.start_low < row.start < row.start_high


def test_the_interval_covers_the_true_difference_in_about_95_of_100_experiments() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for experiment in range(1000):
        rows = paired_bootstrap(*two_models(rng, 150, gain=0.1), accuracy, num_resamples=400, seed=experiment)
        covered += rows[0].difference_low <= 10 <= rows[0].difference_high
    # The standard error of the share is 0.7 points; the percentile bootstrap is known to cover slightly less.
    assert 925 <= covered <= 970


def test_questions_of_one_image_count_as_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(4)
    start, policy = rng.binomial(1, 0.5, size=200), rng.binomial(1, 0.6, size=200)
    one = paired_bootstrap(tally(start, np.ones(200)), tally(policy, np.ones(200)), accuracy)[0]
    ten = paired_bootstrap(tally(10 * start, np.full(200, 10)), tally(10 * policy, np.full(200, 10)), accuracy)[0]
    assert width(ten) == pytest.approx(width(one))


def test_pairing_narrows_the_interval_of_the_difference() -> None:
    start, policy = two_models(np.random.default_rng(5), num_images=300, gain=0.02)
    row = paired_bootstrap(start, policy, accuracy)[0]
    unpaired = np.hypot(row.start_high - row.start_low, row.policy_high - row.policy_low)
    assert width(row) < 0.8 * unpaired


def test_equal_answers_differ_by_exactly_zero() -> None:
    start, _ = two_models(np.random.default_rng(6), num_images=50)
    row = paired_bootstrap(start, start, accuracy)[0]
    assert (row.difference, row.difference_low, row.difference_high) == (0, 0, 0)
    assert not row.excludes_zero


def test_a_clear_gain_and_a_clear_loss_exclude_zero_and_chance_does_not() -> None:
    asked = np.full(200, 4)
    weak, strong = tally(np.full(200, 1), asked), tally(np.tile([3, 4], 100), asked)
    assert paired_bootstrap(weak, strong, accuracy)[0].excludes_zero
    assert paired_bootstrap(strong, weak, accuracy)[0].excludes_zero
    start, policy = two_models(np.random.default_rng(7), num_images=200, gain=0.0)
    assert not paired_bootstrap(start, policy, accuracy)[0].excludes_zero


def test_a_seed_gives_the_same_numbers_whatever_the_memory_and_another_seed_gives_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, policy = two_models(np.random.default_rng(8), num_images=50)
    whole = paired_bootstrap(start, policy, accuracy, num_resamples=300, seed=1)
    assert whole != paired_bootstrap(start, policy, accuracy, num_resamples=300, seed=2)
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 7 * 8 * 50)
    assert whole == paired_bootstrap(start, policy, accuracy, num_resamples=300, seed=1)


def test_resamples_without_a_value_do_not_turn_the_interval_into_nan_while_they_are_few() -> None:
    asked = np.array([4.0] * 5 + [0.0] * 5)  # one resample in 1,024 asks nothing
    row = paired_bootstrap(tally(asked / 4, asked), tally(asked / 2, asked), accuracy)[0]
    assert (row.start, row.policy, row.difference) == (25, 50, 25)
    assert (row.difference_low, row.difference_high) == (25, 25)


def test_an_interval_is_nan_where_many_resamples_have_no_value() -> None:
    asked = np.array([4.0] + [0.0] * 9)  # a third of the resamples ask nothing
    row = paired_bootstrap(tally(asked / 4, asked), tally(asked / 2, asked), accuracy)[0]
    assert (row.start, row.policy) == (25, 50)
    assert np.isnan([row.start_low, row.policy_high, row.difference_low, row.difference_high]).all()
    assert np.isnan(row.difference), "a difference never stands without its interval"
    assert not row.excludes_zero


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_images", [0, 1])
def test_fewer_than_two_images_give_no_interval(num_images: int) -> None:
    some = tally(np.ones(num_images), np.full(num_images, 2))
    row = paired_bootstrap(some, some, accuracy)[0]
    assert np.isnan([row.start_low, row.policy_high, row.difference_low]).all()
    assert row.start == 50 if num_images else np.isnan(row.start)


def test_tallies_that_do_not_belong_together_are_refused() -> None:
    some = tally(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="different images"):
        paired_bootstrap(some, tally(np.ones(3), np.ones(3), first_id=1), accuracy)
    with pytest.raises(ValueError, match="different images"):
        paired_bootstrap(some, tally(np.ones(4), np.ones(4)), accuracy)
    twice = Tally(image_ids=["a", "a", "b"], names=NAMES, counts=np.ones((3, 2)))
    with pytest.raises(ValueError, match="appears twice"):
        paired_bootstrap(twice, twice, accuracy)
    others = Tally(image_ids=some.image_ids, names=("right", "all"), counts=np.ones((3, 2)))
    with pytest.raises(ValueError, match="different counts"):
        paired_bootstrap(some, others, accuracy)
    ragged = Tally(image_ids=some.image_ids, names=NAMES, counts=np.ones((3, 3)))
    with pytest.raises(ValueError, match="counts have shape"):
        paired_bootstrap(ragged, ragged, accuracy)
    with pytest.raises(ValueError, match="num_resamples 0"):
        paired_bootstrap(some, some, accuracy, num_resamples=0)


def test_repeats_widen_the_interval_by_students_and_one_repeat_leaves_the_bootstrap_alone():
    random = np.random.default_rng(0)
    counts = random.integers(0, 5, (40, 2)).astype(float)
    counts[:, 0] = 5

    def tally(right: np.ndarray) -> Tally:
        pairs = np.stack([counts[:, 0], right], axis=1)
        return Tally(image_ids=[str(n) for n in range(40)], names=["asked", "right"], counts=pairs)

    def metrics(sums):
        return {"accuracy": 100 * sums["right"] / sums["asked"]}

    start = tally(counts[:, 1])
    policies = [tally(np.minimum(5, counts[:, 1] + random.integers(0, 2, 40))) for _ in range(3)]
    (alone,) = repeated_bootstrap([start], policies[:1], metrics)
    (plain,) = paired_bootstrap(start, policies[0], metrics)
    assert (alone.difference, alone.difference_low, alone.difference_high) == pytest.approx(
        (plain.difference, plain.difference_low, plain.difference_high)
    )
    (repeated,) = repeated_bootstrap([start] * 3, policies, metrics)
    (pooled,) = pooled_bootstrap(start, policies, metrics)
    assert repeated.difference == pytest.approx(np.mean(repeated.differences)) == pytest.approx(pooled.difference)
    half = 4.303 * np.std(repeated.differences, ddof=1) / np.sqrt(3)
    assert repeated.difference_high - repeated.difference == pytest.approx(
        np.hypot(half, pooled.difference_high - pooled.difference)
    )
    assert repeated.difference - repeated.difference_low == pytest.approx(
        np.hypot(half, pooled.difference - pooled.difference_low)
    )


def test_each_policy_is_compared_with_its_own_start():
    def tally(right: int) -> Tally:
        return Tally(image_ids=["a", "b"], names=["right"], counts=np.array([[right], [right]], float))

    (found,) = repeated_bootstrap(
        [tally(1), tally(10)], [tally(3), tally(14)], lambda sums: {"right": sums["right"]}, num_resamples=100
    )
    assert found.differences == (4.0, 8.0)
    assert (found.start, found.policy) == (11.0, 17.0)


def test_students_quantile_is_scipys():
    for df in (1, 2, 5, 10, 11, 15, 30, 200):
        assert student_t(df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-4)
