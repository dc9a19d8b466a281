import math

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.records import Response
from seva_ray.scoring.right_wrong import agreement, clustered_mcnemar, flips_of, mcnemar, repeated_flips


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [(0, 0, 1), (1, 0, 1), (5, 5, 1), (5, 0, 2 / 32), (0, 6, 2 / 64), (9, 1, 22 / 1024), (3, 2, 1), (10, 11, 1)],
)
def test_mcnemar_is_the_exact_binomial_in_closed_form(gained: int, lost: int, p_value: float):
    assert mcnemar(gained, lost) == pytest.approx(p_value, rel=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (3, 9), (40, 12), (250, 249), (1000, 1100), (4000, 3500)])
def test_mcnemar_is_scipys_two_sided_binomial_test(gained: int, lost: int):
    expected = binomtest(gained, gained + lost, 0.5).pvalue
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_flips_count_every_question_once():
    start = {"a": True, "b": True, "c": False, "d": False, "e": False, "f": False}
    policy = {"a": True, "b": False, "c": True, "d": True, "e": True, "f": False}
    flips = flips_of(start, policy)
    assert (flips.right, flips.gained, flips.lost, flips.wrong) == (1, 3, 1, 1)
    assert flips.p_value == pytest.approx(10 / 16)


def test_outcomes_of_different_questions_are_refused():
    with pytest.raises(ValueError, match="different questions"):
        flips_of({"a": True}, {"b": True})


def test_clustered_mcnemar_is_the_plain_one_without_correction_where_every_cluster_is_one_question():
    clusters = [[1]] * 12 + [[-1]] * 5 + [[0]] * 40
    assert clustered_mcnemar(clusters) == pytest.approx(chi2.sf((12 - 5) ** 2 / (12 + 5), df=1))
    assert clustered_mcnemar([[0], [0, 0]]) == 1
    assert clustered_mcnemar([]) == 1


def test_clustered_mcnemar_worked_out_by_hand():
    # Means 1, 0, -1/2, 1/2, 1/2: their sum is 3/2, the sum of their squares 7/4.
    clusters = [[1, 1], [1, -1], [0, -1], [1, 0, 0, 1], [0, 1]]
    assert clustered_mcnemar(clusters) == pytest.approx(chi2.sf((9 / 4) / (7 / 4), df=1))


def test_what_is_repeated_is_no_more_evidence():
    clusters = [[1]] * 9 + [[-1]] * 4
    assert clustered_mcnemar([outcomes * 5 for outcomes in clusters]) == pytest.approx(clustered_mcnemar(clusters))


def test_without_an_effect_five_in_a_hundred_are_called_one_though_questions_repeat_over_policies():
    rng = np.random.default_rng(0)
    num_images, num_policies = 150, 3
    clustered = counted = 0
    for _ in range(600):
        ease = rng.uniform(0.1, 0.9, (num_images, 2))  # two questions of each image
        start = rng.random((num_images, 2)) < ease
        policies = rng.random((num_policies, num_images, 2)) < ease
        change = policies.astype(int) - start
        clustered += clustered_mcnemar(change.transpose(1, 0, 2).reshape(num_images, -1).tolist()) < 0.05
        counted += mcnemar(int((change > 0).sum()), int((change < 0).sum())) < 0.05
    assert 0.03 < clustered / 600 < 0.075
    assert counted / 600 > 0.1, "a sum of counts would find effects where there is none"


def test_flips_of_several_policies_keep_each_ones_counts():
    start = {"a": True, "b": False, "c": False}
    policies = [{"a": True, "b": True, "c": True}, {"a": False, "b": True, "c": False}]
    flips = repeated_flips([(start, policy) for policy in policies], {"a": "x", "b": "x", "c": "y"})
    assert (flips.num_questions, flips.num_images, flips.gained, flips.lost) == (3, 2, [2, 1], [0, 1])
    assert flips.p_value == pytest.approx(clustered_mcnemar([[0, 1, -1, 1], [1, 0]]))
    with pytest.raises(ValueError, match="different questions"):
        repeated_flips([(start, start), ({"a": True}, {"a": True})], {"a": "x", "b": "x", "c": "y"})


def test_agreement_is_the_share_of_equal_pairs_and_every_thing_weighs_the_same():
    assert agreement([["x", "x", "x"], ["x", "y", "x"]]) == pytest.approx((1 + 1 / 3) / 2)
    assert agreement([["x", "y"], ["x"], []]) == 0
    assert math.isnan(agreement([["x"]]))
    assert math.isnan(agreement([]))


def test_the_toy_benchmarks_outcomes_agree_with_its_accuracies():
    benchmark = ToyBenchmark(num_images=30)
    texts = ["yes", "red", "no", "2", "left"]
    responses = {
        prompt.prompt_id: Response(prompt_id=prompt.prompt_id, text=texts[n % 5], finish_reason="stop")
        for n, prompt in enumerate(benchmark.prompts())
        if n % 7
    }
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(axis=0), strict=True))
    right = sum(value for name, value in sums.items() if name.endswith(("_right", "_tp", "_tn")))
    right -= sums["describe_said_right"]
    asked = sum(value for name, value in sums.items() if name.endswith(("_asked", "_tp", "_tn", "_fp", "_fn")))
    correct = benchmark.correct(responses)
    assert 0 < sum(correct.values()) == right
    assert len(correct) == asked - sums["describe_asked"]
