"""A second thread for a training on one: half of the images in attention and MLPs, and the gradients of their weights.

What one image gets of these parts depends on no other image, so half of the images get the same. A gradient of weights
is a sum over all images: it stays one product of matrices, and nothing waits for it before the step ends. Every number
is computed by one thread alone, so the results are equal to the last bit. A thread that waits takes no time of a core,
in contrast to OpenMP's.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Product = tuple[nn.Linear, Tensor, Tensor]
"""A layer, the gradient of what it returned and what it was given: the two matrices, each with a row for each token,
whose product is the gradient of its weights."""


class SecondThread:
    """Computes beside the thread that trains."""

    def __init__(self) -> None:
        self.halves, self.later = (ThreadPoolExecutor(1, initializer=_alone) for _ in range(2))
        self.gradients: list[tuple[nn.Linear, Future[tuple[Tensor, Tensor | None]]]] = []
        self.of_half = threading.local()

    def run(self, compute: Callable[..., Any], *given: Any) -> "Future[Any]":
        """Compute what nothing waits for now, in the order of the calls."""
        return self.later.submit(compute, *given)

    def both(self, compute: Callable[[int], Any]) -> tuple[Any, Any]:
        """`compute(0)` and `compute(1)`, at the same time."""
        other = self.halves.submit(compute, 1)
        try:
            return compute(0), other.result()
        finally:
            wait([other])

    def add(self, *parts: Product) -> None:
        """Compute the gradients of a layer that was given the tokens in these parts."""
        layers, of_y, of_x = zip(*parts, strict=True)
        self.gradients.append((layers[0], self.run(_gradients, layers[0], of_y, of_x)))

    def collect(self) -> None:
        """Wait for the gradients of this backward pass, and add them to their parameters."""
        for layer, made in self.gradients:
            for parameter, gradient in zip((layer.weight, layer.bias), made.result(), strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.gradients.clear()


def _alone() -> None:
    """Let this thread compute without OpenMP's threads. Each thread has its own number of them."""
    torch.set_num_threads(1)


@torch.no_grad()
def _gradients(layer: nn.Linear, of_y: tuple[Tensor, ...], of_x: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    y = torch.cat(of_y) if len(of_y) > 1 else of_y[0]
    weight = y.t().mm(torch.cat(of_x) if len(of_x) > 1 else of_x[0]) if layer.weight.requires_grad else None
    return weight, y.sum(0) if layer.bias is not None and layer.bias.requires_grad else None


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
        product = layer, gradients[0].flatten(0, -2), x.flatten(0, -2)
        products: list[Product] | None = getattr(second.of_half, "products", None)
        if products is None:
            second.add(product)
        else:
            products.append(product)
        return product[1].mm(layer.weight).view_as(x), None, None


class _Halves(torch.autograd.Function):
    """A part of the model, of which each thread computes half of the images, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, compute: Callable[..., Tensor], options: Mapping[str, Any], second: SecondThread
    ) -> Tensor:
        parts = [part.detach().requires_grad_() for part in x.chunk(2)]

        @torch.enable_grad()
        def half(number: int) -> Tensor:
            return compute(parts[number], **{name: _half(value, number, len(x)) for name, value in options.items()})

        ctx.parts, ctx.made, ctx.second = parts, second.both(half), second
        return torch.cat([made.detach() for made in ctx.made])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        second, parts = ctx.second, gradients[0].split([len(part) for part in ctx.parts])

        def half(number: int) -> tuple[Tensor, list[Product]]:
            products: list[Product] = []
            second.of_half.products = products
            try:
                (of_x,) = torch.autograd.grad(ctx.made[number], ctx.parts[number], parts[number])
            finally:
                del second.of_half.products
            return of_x, products

        made, products = zip(*second.both(half), strict=True)
        for of_layer in zip(*products, strict=True):
            second.add(*of_layer)
        return torch.cat(made), None, None, None


def _half(value: Any, number: int, num_images: int) -> Any:
    """One half of what a part of the model is given: of a tensor with a row for each image, half of the rows."""
    if isinstance(value, tuple):
        return tuple(_half(item, number, num_images) for item in value)
    return value.chunk(2)[number] if isinstance(value, Tensor) and len(value) == num_images else value


@contextmanager
def second_thread(model: nn.Module) -> Iterator[SecondThread]:
    """Within the block, `model` computes with the second thread. Of its linear layers' weights and biases the gradients
    are there after `collect`."""
    second, changed = SecondThread(), []
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            module.forward = partial(_forward, module, second)  # type: ignore[method-assign]
        elif name.endswith(".mlp"):
            module.forward = partial(_mlp, module.forward, second)
        elif name.endswith(".self_attn"):
            module.forward = partial(_attention, module.forward, second)
        else:
            continue
        changed.append(module)
    try:
        yield second
    finally:
        for module in changed:
            del module.forward
        second.halves.shutdown()
        second.later.shutdown()


def _forward(layer: nn.Linear, second: SecondThread, x: Tensor) -> Tensor:
    if not x.requires_grad:
        return linear(x, layer.weight, layer.bias)
    made: Tensor = _Linear.apply(x, layer, second)
    return made


def _mlp(forward: Callable[..., Tensor], second: SecondThread, x: Tensor, **options: Any) -> Tensor:
    if not x.requires_grad or len(x) < 2:
        return forward(x, **options)
    made: Tensor = _Halves.apply(x, forward, options, second)
    return made


def _attention(
    forward: Callable[..., tuple[Tensor, None]], second: SecondThread, hidden_states: Tensor, **options: Any
) -> tuple[Tensor, None]:
    return _mlp(lambda x, **half: forward(x, **half)[0], second, hidden_states, **options), None
