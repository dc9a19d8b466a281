"""Muon for the hidden matrices and AdamW for the rest, with a short warm-up and a linear decay.

In: groups of parameters with their peak learning rates. On the toy model Muon needs a third of AdamW's steps.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from seva_ray.toy.second_thread import SecondThread


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximately the closest matrices with orthogonal rows or columns, by five Newton-Schulz steps in float32.

    Shapes: (N, rows, columns) for the argument and the result.
    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with its coefficients.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x if wide is matrices else x.mT


class Muon:
    """Momentum with an orthogonalised update. Matrices of one shape are updated together, in two halves that can be
    updated at the same time.

    Source: the step is scaled by 0.2 sqrt(larger side), which gives it the size of AdamW's step (J. Liu et al., "Muon
    is scalable for LLM training", arXiv 2502.16982).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        by_shape = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        self.halves = [
            [(half, torch.zeros(len(half), *half[0].shape)) for group in by_shape.values() if (half := group[at::2])]
            for at in range(2)
        ]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, learning_rate: float, half: int) -> None:
        """Update half 0 or 1 of the matrices."""
        for group, moment in self.halves[half]:
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            moment.lerp_(gradient, 1 - self.momentum)
            update = orthogonalised(gradient.lerp(moment, self.momentum))
            size = learning_rate * 0.2 * math.sqrt(max(update.shape[1:]))
            for parameter, direction in zip(group, update, strict=True):
                parameter.mul_(1 - learning_rate * self.weight_decay).sub_(direction, alpha=size)


class Optimizer:
    """Makes a step from a loss: runs backward, clips the gradients' norm at 1, and updates every group at its scheduled
    rate."""

    def __init__(
        self,
        *,
        num_steps: int,
        muon: tuple[Sequence[nn.Parameter], float],
        adamw: Sequence[tuple[Sequence[nn.Parameter], float]],
        second: SecondThread | None = None,
    ) -> None:
        """Each group consists of its parameters and its peak learning rate. `second`: computes some of the gradients
        and of the updates."""
        self.num_steps, self.num_done, self.second = num_steps, 0, second
        self.parameters = [*muon[0], *(parameter for parameters, _ in adamw for parameter in parameters)]
        self.muon, self.muon_peak = Muon(muon[0]), muon[1]
        groups = [{"params": list(parameters), "lr": peak, "peak": peak} for parameters, peak in adamw]
        self.adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def step(self, loss: Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.second:
            self.second.collect()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        scale = self._scale()
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * scale
        muon = partial(self.muon.step, self.muon_peak * scale)
        if self.second:
            beside = self.second.run(self.adamw.step)
            self.second.both(muon)
            beside.result()
        else:
            self.adamw.step()
            muon(0)
            muon(1)
        self.num_done += 1

    def _scale(self) -> float:
        """The share of the peak learning rate: a warm-up in 5 % of the steps, then a straight line down to 2 %."""
        done = self.num_done / self.num_steps
        return min((self.num_done + 1) / max(1.0, 0.05 * self.num_steps), max(0.02, (1 - done) / 0.95), 1.0)
