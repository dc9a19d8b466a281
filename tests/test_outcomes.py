import math

import pytest
from scipy.stats import binomtest

from seva_ray.benchmarks.toy import ToyBenchmark
from seva_ray.outcomes import agreement, flips_of, mcnemar
from seva_ray.records import Response


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
