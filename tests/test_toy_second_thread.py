"""A toy base's training on two threads: every gradient and every weight equals that of one thread, bit by bit."""

import threading

import pytest
import torch
from torch import nn

from seva_ray.toy import qwen
from seva_ray.toy.model import build
from seva_ray.toy.optimizer import Optimizer
from seva_ray.toy.packed import answer_logits, pack, prefix
from seva_ray.toy.second_thread import second_thread


def loss_of(model, num_images=3):
    pixels = torch.randn(num_images, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    rows = [[([9, 11, 12], [13 + i, 2]), ([9, 15], [16, 17, 2])] for i in range(num_images)]
    logits, wanted, _ = answer_logits(model, prefix(model, pixels), pack(rows))
    return nn.functional.cross_entropy(logits, wanted)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("build", "num_images"), [(build, 3), (build, 1), (qwen.build, 4)])
def test_every_gradient_equals_that_of_one_thread(build, num_images):
    plain, shared = build(1), build(1)
    loss_of(plain, num_images).backward()
    with second_thread(shared) as second:
        loss_of(shared, num_images).backward()
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


@pytest.mark.parametrize("part", ["vision_tower.encoder.layers.0.mlp", "language_model.layers.2.self_attn"])
def test_each_thread_computes_half_of_the_images_of_attention_and_mlps(part):
    model, whole, seen = build(1), list[int](), dict[int, int]()
    module = model.model.get_submodule(part)
    module.register_forward_pre_hook(lambda *_: whole.append(threading.get_ident()))
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Linear))
    first.register_forward_pre_hook(lambda _, given: seen.update({threading.get_ident(): len(given[0])}))
    with second_thread(model):
        loss_of(model)
    assert whole == [threading.get_ident()]
    assert seen.pop(threading.get_ident()) == 2
    assert list(seen.values()) == [1]


def test_both_wait_for_each_other_even_if_the_first_is_interrupted():
    begun, done = threading.Event(), list[int]()

    def half(number):
        if number == 0:
            begun.set()
            raise KeyboardInterrupt
        begun.wait()
        done.append(threading.get_ident())

    with second_thread(build(1)) as second:
        with pytest.raises(KeyboardInterrupt):
            second.both(half)
        assert done != []
        assert done != [threading.get_ident()]


def test_an_error_in_the_other_half_is_raised():
    with second_thread(build(1)) as second, pytest.raises(ZeroDivisionError):
        second.both(lambda number: 1 / (1 - number))


def test_the_threads_and_the_layers_are_as_before_after_the_block():
    model, threads = build(1), threading.active_count()
    with second_thread(model) as second:
        second.run(lambda: 1).result()
        second.both(lambda number: number)
        assert threading.active_count() == threads + 2
    assert threading.active_count() == threads
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_error_in_the_second_thread_ends_the_step():
    model = build(1)
    with second_thread(model) as second:
        loss_of(model).backward()
        second.gradients.append((model.lm_head, second.run(lambda: 1 / 0)))
        with pytest.raises(ZeroDivisionError):
            second.collect()
