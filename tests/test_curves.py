import math
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from seva_ray.pages.figures import NUM_BINS, SMOOTH_FROM, _running_mean, length_edges, length_figure, training_curves


def rows(num_steps: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "loss": 0.69 / step,
            "rewards/margins": 0.01 * step,
            "rewards/accuracies": 0.5,
            "rewards/chosen": -0.1,
            "rewards/rejected": -0.2,
        }
        for step in range(1, num_steps + 1)
    ]


def test_a_run_has_curves_of_margin_accuracy_both_rewards_and_loss_in_well_formed_svg() -> None:
    curves = training_curves(rows(5))
    assert [curve.title for curve in curves] == ["Margin", "Accuracy", "Chosen and rejected reward", "Loss"]
    for curve in curves:
        assert ElementTree.fromstring(curve.svg).tag.endswith("svg")


def test_rows_with_missing_unfinished_or_wordy_values_are_left_out() -> None:
    odd: list[dict[str, Any]] = [
        {"train_runtime": 9.0, "step": 5},
        {"loss": 0.1},
        {"step": 6, "loss": math.nan},
        {"step": 7, "loss": "0.5"},
        {"step": None, "loss": 0.5},
    ]
    assert training_curves(odd) == []
    assert [curve.title for curve in training_curves([*odd, {"step": 8, "loss": 0.4}])] == ["Loss"]


def test_one_reward_without_the_other_is_still_drawn() -> None:
    assert [c.title for c in training_curves([{"step": 1, "rewards/chosen": 0.1}])] == ["Chosen and rejected reward"]


@pytest.mark.parametrize(("num_steps", "smoothed"), [(SMOOTH_FROM - 1, False), (SMOOTH_FROM, True)])
def test_only_long_runs_get_a_running_mean(num_steps: int, smoothed: bool) -> None:
    assert {curve.smoothed for curve in training_curves(rows(num_steps))} == {smoothed}


def test_the_running_mean_is_over_the_points_around_each_point() -> None:
    values = np.random.default_rng(0).normal(size=60)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(60)]
    np.testing.assert_allclose(_running_mean(values), expected)


@pytest.mark.parametrize("lengths", [[], [0], [1] * 50, [*range(400)], [*[3] * 500, 90_000]])
def test_every_answer_has_a_place_in_the_histogram_of_lengths(lengths: list[int]) -> None:
    edges = length_edges(lengths)
    assert len(edges) <= NUM_BINS + 2
    assert edges[0] < 0, "an empty answer has one too"
    assert np.quantile(lengths or [0], 0.99) < edges[-1]
    assert ElementTree.fromstring(length_figure(lengths, [])).tag.endswith("svg")


def test_one_endless_answer_does_not_flatten_the_histogram() -> None:
    assert length_edges([*[3] * 500, 90_000])[-1] < 10
