"""Every loss against its formula worked out by hand, in float64, with one and with several rejected responses."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from seva_ray.core.errors import ConfigError
from seva_ray.dpo.config import Loss, LossName
from seva_ray.dpo.losses import LOSSES, ResponseLogps, losses_of

BETA = 0.3
# One pair with K = 1, one with K = 2: policy and reference log-probabilities, and lengths, of chosen and rejected.
LOGPS = [[-10.0, -12.0, 0.0], [-20.0, -15.0, -31.0]]
REFERENCE = [[-11.0, -11.5, 0.0], [-19.0, -16.0, -28.0]]
TOKENS = [[4, 6, 0], [10, 5, 9]]


def answers(dtype: torch.dtype = torch.float64) -> ResponseLogps:
    logps, reference = (torch.tensor(rows, dtype=dtype) for rows in (LOGPS, REFERENCE))
    return ResponseLogps(logps=logps, ref_logps=reference, num_tokens=torch.tensor(TOKENS))


def given(logps: torch.Tensor) -> ResponseLogps:
    return replace(answers(), logps=logps)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# Margins of log-ratios: pair 0: 1 - (-0.5); pair 1: -1 - 1 and -1 - (-3).
M = [[1.5], [-2.0, 2.0]]
# The same per token: 1/4 - (-0.5)/6; -1/10 - 1/5 and -1/10 - (-3)/9.
N = [[1 / 4 + 0.5 / 6], [-0.1 - 0.2, -0.1 + 1 / 3]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


EXPECTED = {
    "sigmoid": [mean([-log_sigmoid(BETA * m) for m in row]) for row in M],
    "softmax": [math.log(1 + sum(math.exp(-BETA * m) for m in row)) for row in M],
    "ipo": [mean([(n - 1 / (2 * BETA)) ** 2 for n in row]) for row in N],
    "hinge": [mean([max(0.0, 1 - BETA * m) for m in row]) for row in M],
    "robust": [mean([(-0.9 * log_sigmoid(BETA * m) + 0.1 * log_sigmoid(-BETA * m)) / 0.8 for m in row]) for row in M],
    "rpo": [
        mean([-log_sigmoid(BETA * m) for m in row]) + 0.5 * nll for row, nll in zip(M, (10 / 4, 20 / 10), strict=True)
    ],
    "length_normalised": [mean([-log_sigmoid(BETA * n) for n in row]) for row in N],
    "sft": [10 / 4, 20 / 10],
}


def test_every_name_of_a_loss_has_its_function_and_its_formula_here():
    assert set(LOSSES) == set(EXPECTED) == set(get_args(LossName))


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_is_its_formula(name: LossName):
    loss = Loss(name=name, label_smoothing=0.1, sft_weight=0.5)
    assert losses_of(loss, answers(), BETA).tolist() == pytest.approx(EXPECTED[name], abs=1e-12)


def test_with_one_rejected_response_the_softmax_is_dpo():
    one = ResponseLogps(
        logps=answers().logps[:, :2], ref_logps=answers().ref_logps[:, :2], num_tokens=torch.tensor(TOKENS)[:, :2]
    )
    both = [losses_of(Loss(name=name), one, BETA).tolist() for name in ("softmax", "sigmoid")]
    assert both[0] == pytest.approx(both[1], abs=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_response_that_is_not_there_changes_neither_loss_nor_gradient(name: LossName):
    grads = []
    for filler in (0.0, 50.0):
        logps = answers().logps.clone()
        logps[0, 2] = filler
        logps.requires_grad_()
        losses = losses_of(Loss(name=name), given(logps), BETA)
        losses.sum().backward()
        assert logps.grad is not None
        assert torch.isfinite(logps.grad).all()
        assert logps.grad[0, 2] == 0
        grads.append((losses.detach(), logps.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_step_down_the_gradient_raises_chosen_over_rejected(name: LossName):
    logps = answers().logps.clone().requires_grad_()
    losses_of(Loss(name=name), given(logps), BETA).sum().backward()
    assert logps.grad is not None
    assert (logps.grad[:, 0] < 0).all()
    if name == "sft":
        assert (logps.grad[:, 1:] == 0).all(), "fine-tuning does not read the rejected response"
    else:
        assert (logps.grad[:, 1] > 0).all()


def test_margins_of_thousands_of_nats_stay_finite():
    far = given(1e4 * answers().logps)
    for name in LOSSES:
        assert torch.isfinite(losses_of(Loss(name=name), far, BETA)).all()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": "dpo"}, "loss dpo: must be one of sigmoid, softmax"),
        ({"label_smoothing": 0.5}, "label_smoothing 0.5: must be 0 or more and below 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing -0.1: must be"),
        ({"sft_weight": -1.0}, "sft_weight -1.0: must be at least 0, and finite"),
        ({"sft_weight": float("nan")}, "sft_weight nan: must be"),
    ],
)
def test_a_loss_that_cannot_work_is_named(values: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        Loss(**values)
