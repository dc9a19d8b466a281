import warnings

import numpy as np
import pytest

from seva_ray.benchmarks import yesno


def sums_of(rows: list[tuple[str, bool, bool]]) -> dict[str, np.ndarray]:
    counts = [yesno.outcome_counts(*row) for row in rows]
    return {name: np.asarray(sum(row[name] for row in counts)) for name in yesno.outcome_names()}


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes", True),
        ("Yes, there is a dog in the image.", True),
        ("No", False),
        ("no", False),
        ("No, there is no dog in the image.", False),
        ("No.", False),
        ("No\n", False),
        ("No, the dog left", False),
        ("The dog is\nnot here", True),
        ("There is not a dog in the image", False),
        ("Yes, there is a dog. It is not red.", True),
        ("The dog is north of the cat", True),
        ("Nothing", True),
        ("There isn't a dog", True),
        ("NO", True),
        ("", True),
    ],
)
def test_an_answer_means_no_only_by_the_words_of_the_protocol_before_the_first_period(text: str, yes: bool) -> None:
    assert yesno.says_yes(text) is yes


@pytest.mark.parametrize(
    ("label_yes", "said_yes", "outcome"),
    [(True, True, "tp"), (False, True, "fp"), (False, False, "tn"), (True, False, "fn")],
)
def test_an_answer_counts_once_under_its_category_and_outcome(label_yes: bool, said_yes: bool, outcome: str) -> None:
    counts = yesno.outcome_counts("popular", label_yes, said_yes)
    assert list(counts) == yesno.outcome_names()
    assert {name for name, value in counts.items() if value} == {f"pope_popular_{outcome}"}
    assert counts[f"pope_popular_{outcome}"] == 1


def test_a_category_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'hard' is not one of random, popular, adversarial"):
        yesno.outcome_counts("hard", True, True)


def test_metrics_are_those_worked_out_by_hand() -> None:
    tp, fp, tn, fn = 6, 3, 7, 4
    rows = [("adversarial", True, True)] * tp + [("adversarial", False, True)] * fp
    rows += [("adversarial", False, False)] * tn + [("adversarial", True, False)] * fn
    metrics = yesno.pope_metrics(sums_of(rows))
    assert metrics["POPE adversarial accuracy"] == pytest.approx(65)
    assert metrics["POPE adversarial precision"] == pytest.approx(100 * 6 / 9)
    assert metrics["POPE adversarial recall"] == pytest.approx(60)
    assert metrics["POPE adversarial F1"] == pytest.approx(2 * (6 / 9) * 0.6 / (6 / 9 + 0.6) * 100)
    assert metrics["POPE adversarial yes-ratio"] == pytest.approx(45)


def test_overall_is_the_mean_of_the_categories_and_not_the_pool_of_their_questions() -> None:
    rows = [("random", True, True)] * 90 + [("popular", False, True)] * 10 + [("adversarial", True, False)] * 10
    assert yesno.pope_metrics(sums_of(rows))["POPE accuracy"] == pytest.approx(100 / 3)


def test_overall_skips_a_category_without_questions() -> None:
    metrics = yesno.pope_metrics(sums_of([("random", True, True), ("popular", False, True)]))
    assert np.isnan(metrics["POPE adversarial accuracy"])
    assert metrics["POPE accuracy"] == pytest.approx(50)


def test_a_metric_without_a_denominator_is_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        never_yes = yesno.pope_metrics(sums_of([(category, True, False) for category in yesno.CATEGORIES]))
        nothing = yesno.pope_metrics(sums_of([]))
    assert np.isnan([never_yes["POPE random precision"], never_yes["POPE precision"]]).all()
    assert never_yes["POPE random F1"] == never_yes["POPE recall"] == 0
    assert all(np.isnan(value) for value in nothing.values())


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_metrics_of_an_array_are_those_of_its_elements(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    sums = {name: rng.integers(0, 4, size=shape).astype(float) for name in yesno.outcome_names()}
    metrics = yesno.pope_metrics(sums)
    for index in np.ndindex(shape):
        single = yesno.pope_metrics({name: values[index] for name, values in sums.items()})
        for name, values in metrics.items():
            assert values.shape == shape
            np.testing.assert_allclose(values[index], single[name])
