"""The second thread of a toy base's training: every gradient and every weight equals that of one thread, bit by bit."""

import threading

import pytest
import torch
from torch import nn

from seva_ray.toy.model import build
from seva_ray.toy.optimizer import Optimizer
from seva_ray.toy.packed import answer_logits, pack, prefix
from seva_ray.toy.second_thread import second_thread


def loss_of(model):
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    rows = [[([9, 11, 12], [13 + i, 2]), ([9, 15], [16, 17, 2])] for i in range(3)]
    logits, wanted, _ = answer_logits(model, prefix(model, pixels), pack(rows))
    return nn.functional.cross_entropy(logits, wanted)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_gradient_equals_that_of_one_thread():
    plain, shared = build(1), build(1)
    loss_of(plain).backward()
    with second_thread(shared) as second:
        loss_of(shared).backward()
        assert shared.lm_head.weight.grad is None  # it is left to the second thread
        second.collect()
    expected = dict(plain.named_parameters())
    assert sum(parameter.grad is not None for parameter in expected.values()) > 60
    for name, parameter in shared.named_parameters():
        if expected[name].grad is None:
            assert parameter.grad is None, name
        else:
            assert torch.equal(parameter.grad, expected[name].grad), name


def trained(model, second):
    matrices = [parameter for parameter in model.model.language_model.layers.parameters() if parameter.ndim == 2]
    rest = [model.lm_head.weight, model.model.language_model.embed_tokens.weight]
    optimizer = Optimizer(num_steps=3, muon=(matrices, 0.01), adamw=[(rest, 0.01)], second=second)
    for _ in range(3):
        optimizer.step(loss_of(model))
    return model.state_dict()


def test_steps_give_the_weights_of_one_thread():
    expected, model = trained(build(1), None), build(1)
    with second_thread(model) as second:
        weights = trained(model, second)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not torch.equal(weights["lm_head.weight"], build(1).lm_head.weight)


def test_the_thread_and_the_layers_are_as_before_after_the_block():
    model, threads = build(1), threading.active_count()
    with second_thread(model) as second:
        second.run(lambda: 1).result()
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_error_in_the_second_thread_ends_the_step():
    model = build(1)
    with second_thread(model) as second:
        loss_of(model).backward()
        second.gradients.append((model.lm_head.weight, second.run(lambda: 1 / 0)))
        with pytest.raises(ZeroDivisionError):
            second.collect()
