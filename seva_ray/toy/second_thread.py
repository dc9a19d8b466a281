"""A second thread for a training on one: the gradients of linear layers' weights, while the backward pass goes on.

Nothing waits for these gradients before the step ends. Every product of matrices is the same call on the same operands
as in one thread, and each thread computes alone, so the results are equal to the last bit on every machine. A thread
that waits takes no time of a core, in contrast to OpenMP's.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class SecondThread:
    """Runs what it is given in one other thread, in that order."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.gradients: list[tuple[nn.Parameter, Future[Tensor]]] = []

    def run(self, compute: Callable[..., Any], *given: Any) -> "Future[Any]":
        return self.pool.submit(_alone, compute, *given)

    def collect(self) -> None:
        """Wait for the gradients of this backward pass, and add them to their parameters."""
        for parameter, gradient in self.gradients:
            made = gradient.result()
            parameter.grad = made if parameter.grad is None else parameter.grad + made
        self.gradients.clear()


def _alone(compute: Callable[..., Any], *given: Any) -> Any:
    """Compute without OpenMP's threads. Each thread has its own number of them, and its own switch for autograd."""
    torch.set_num_threads(1)
    with torch.no_grad():
        return compute(*given)


class _Linear(torch.autograd.Function):
    """A linear layer that leaves the gradients of weight and bias to the second thread."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear, second: SecondThread) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.second = layer, second
        return linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), layer, second = ctx.saved_tensors, ctx.layer, ctx.second
        of_y, of_x = gradients[0].flatten(0, -2), x.flatten(0, -2)
        if layer.weight.requires_grad:
            second.gradients.append((layer.weight, second.run(lambda: of_y.t().mm(of_x))))
        if layer.bias is not None and layer.bias.requires_grad:
            second.gradients.append((layer.bias, second.run(lambda: of_y.sum(0))))
        return of_y.mm(layer.weight).view_as(x), None, None


@contextmanager
def second_thread(model: nn.Module) -> Iterator[SecondThread]:
    """Within the block, a backward pass through `model` leaves the weights of its linear layers to the second thread:
    their gradients are there after `collect`."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    second = SecondThread()
    for layer in layers:
        layer.forward = partial(_forward, layer, second)  # type: ignore[method-assign]
    try:
        yield second
    finally:
        for layer in layers:
            del layer.forward
        second.pool.shutdown()


def _forward(layer: nn.Linear, second: SecondThread, x: Tensor) -> Tensor:
    if not x.requires_grad:
        return linear(x, layer.weight, layer.bias)
    made: Tensor = _Linear.apply(x, layer, second)
    return made
