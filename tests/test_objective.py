"""The terms of the methods against formulas worked out by hand, and their gradients against differences in float64."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.dpo.config import Loss
from seva_ray.dpo.losses import ResponseLogps
from seva_ray.dpo.methods import METHODS
from seva_ray.dpo.objective import objective

BETA = 0.3
# Two pairs: log-probabilities of the chosen and the rejected response on the clean image and on the view.
CLEAN = np.array([[-10.0, -12.0], [-20.0, -15.0]])
CLEAN_REFERENCE = np.array([[-11.0, -11.5], [-19.0, -16.0]])
VIEW = np.array([[-14.0, -9.0], [-21.5, -13.0]])
VIEW_REFERENCE = np.array([[-13.5, -9.5], [-20.0, -14.5]])
# The log-ratios: of the chosen and the rejected response on the clean image, and of both on the view.
H = [(1.0, -0.5, -0.5, 0.5), (-1.0, 1.0, -1.5, 1.5)]
TOKENS = torch.tensor([[4, 6], [10, 5]])

Formula = Callable[[float, float, float, float], float]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def dpo(c: float, r: float) -> float:
    return -log_sigmoid(BETA * (c - r))


def anchored(h: float) -> float:
    return -log_sigmoid(BETA * h)


# The arguments are the log-ratios of chosen and rejected on the clean image, and of both on the view.
FORMULAS: dict[str, Formula] = {
    "seva": lambda c, r, cv, rv: dpo(c, r),
    "anchor": lambda c, r, cv, rv: dpo(c, r) + anchored(c),
    "seva+image": lambda c, r, cv, rv: dpo(c, r) + dpo(c, cv),
    "mdpo": lambda c, r, cv, rv: dpo(c, r) + dpo(c, cv) + anchored(c),
    "symmpo": lambda c, r, cv, rv: (
        dpo(c, r) + 0.5 * (dpo(c, r) + dpo(rv, cv)) + 1e-4 * ((c - r) - (rv - cv)) ** 2 + anchored(c) + anchored(rv)
    ),
}


def answers(clean: torch.Tensor, view: torch.Tensor) -> ResponseLogps:
    def of(logps: torch.Tensor, reference: np.ndarray) -> ResponseLogps:
        return ResponseLogps(
            logps=logps, ref_logps=torch.tensor(reference, dtype=logps.dtype), num_tokens=TOKENS[:, : logps.shape[1]]
        )

    return replace(of(clean, CLEAN_REFERENCE), on_view=of(view, VIEW_REFERENCE))


def computed(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray]:
    """The objective of each pair, and the gradient of their sum: (2 pairs, 4 log-probabilities)."""
    logps = torch.tensor(np.hstack([CLEAN, VIEW]), dtype=dtype, requires_grad=True)
    losses = objective(METHODS[name].loss, answers(logps[:, :2], logps[:, 2:]), BETA)
    losses.sum().backward()
    assert logps.grad is not None
    return losses.detach(), logps.grad.numpy()


@pytest.mark.parametrize("name", FORMULAS)
def test_the_objective_of_a_method_is_its_formula(name: str):
    losses, _ = computed(name, torch.float64)
    assert losses.tolist() == pytest.approx([FORMULAS[name](*h) for h in H], abs=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradients_in_float32_are_the_differences_of_the_formula_in_float64(name: str):
    _, found = computed(name, torch.float32)
    step = 1e-5
    for pair, which in product(range(2), range(4)):
        above, below = ([*H[pair]] for _ in range(2))
        above[which] += step
        below[which] -= step
        slope = (FORMULAS[name](*above) - FORMULAS[name](*below)) / (2 * step)
        assert found[pair, which] == pytest.approx(slope, abs=2e-7)


def test_a_step_down_an_image_term_lowers_the_chosen_response_on_the_view():
    for name in ("seva+image", "mdpo", "symmpo"):
        _, gradient = computed(name, torch.float64)
        assert (gradient[:, 0] < 0).all(), "likelier on the clean image"
        assert (gradient[:, 2] > 0).all(), "less likely on the view"


def test_only_the_symmetric_preference_reads_the_rejected_response_on_the_view():
    for name in ("seva+image", "mdpo"):
        logps = torch.tensor(CLEAN)
        chosen_only = answers(logps, torch.tensor(VIEW))
        assert chosen_only.on_view is not None
        narrow = replace(
            chosen_only,
            on_view=replace(
                chosen_only.on_view,
                logps=chosen_only.on_view.logps[:, :1],
                ref_logps=chosen_only.on_view.ref_logps[:, :1],
            ),
        )
        both = [objective(METHODS[name].loss, given, BETA).tolist() for given in (chosen_only, narrow)]
        assert both[0] == both[1]


def test_an_objective_without_image_terms_needs_no_view_and_equal_images_cancel_the_image_term():
    clean = answers(torch.tensor(CLEAN), torch.tensor(VIEW))
    alone = replace(clean, on_view=None)
    assert torch.equal(objective(Loss(), clean, BETA), objective(Loss(), alone, BETA))
    same = replace(clean, on_view=alone)
    more = objective(Loss(image_weight=1.0), same, BETA) - objective(Loss(), alone, BETA)
    assert more.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-12)
    with pytest.raises(AssertionError, match="no log-probabilities on a view"):
        objective(Loss(image_weight=1.0), alone, BETA)


def test_log_ratios_of_thousands_of_nats_stay_finite():
    far = answers(torch.tensor(1e4 * CLEAN), torch.tensor(-1e4 * VIEW))
    for name in FORMULAS:
        assert torch.isfinite(objective(METHODS[name].loss, far, BETA)).all()


def test_terms_are_part_of_a_recipe_only_if_they_are_used():
    assert not {"anchor_weight", "image_weight", "symmetric_weight", "margin_weight", "image_view"} & {
        *identity(Loss())
    }
    assert identity(Loss(anchor_weight=1.0))["anchor_weight"] == 1.0


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"anchor_weight": -1.0}, "anchor_weight -1.0: must be at least 0, and finite"),
        ({"image_weight": float("inf")}, "image_weight inf: must be at least 0, and finite"),
        ({"symmetric_weight": float("nan")}, "symmetric_weight nan: must be"),
        ({"image_view": "moco"}, "image_view moco: only a loss with an image_weight reads a view"),
        ({"image_weight": 1.0, "image_view": "clean"}, "image_view clean: must be an augmented view"),
        ({"image_weight": 1.0, "image_view": "sharpen"}, "view 'sharpen': there is no 'sharpen'"),
        (
            {"symmetric_weight": 1.0, "image_weight": 1.0, "image_view": "moco"},
            "image_view moco: with a symmetric_weight it must be empty",
        ),
    ],
)
def test_terms_that_cannot_work_are_named(values: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        Loss(**values)
