"""The group that trains: its size, and what each worker computes at once, by the GPUs that are there (made up here)."""

from dataclasses import replace

import pytest

from presets import LLAVA_13B_TRAIN, LLAVA_GENERATE, LLAVA_TRAIN
from seva_ray.core.errors import InputError
from seva_ray.dpo.config import Train
from seva_ray.runtime.preflight import Card
from seva_ray.stages import engine_pool
from seva_ray.stages.training import group
from seva_ray.vlm.model_shape import LLAVA_7B, LLAVA_13B, ModelShape


def on_machine(monkeypatch: pytest.MonkeyPatch, gpus: int, gib: float, shape: ModelShape = LLAVA_7B) -> None:
    """A cluster of one machine with so many equal GPUs; without any, it has two CPUs."""
    card = Card(name="a card", number=gpus, gib=gib, free_gib=gib, tflops=1.0, driver="580.1", torch="2.13.0", kinds=())
    monkeypatch.setattr(group, "capacity", lambda: {"CPU": 2.0} | ({"GPU": float(gpus)} if gpus else {}))
    monkeypatch.setattr(group, "has_gpus", lambda: gpus > 0)
    monkeypatch.setattr(group.preflight, "cards", lambda kind: [card])
    monkeypatch.setattr(group, "shape_of", lambda directory: shape)


@pytest.mark.parametrize(
    ("gpus", "gib", "workers", "pairs"),
    [(0, 0.0, 2, 2), (1, 79.1, 1, 1), (2, 79.1, 2, 4), (8, 39.4, 8, 4), (8, 79.1, 8, 4), (3, 79.1, 2, 4)],
)
def test_a_training_takes_the_machine_as_it_is_and_keeps_its_global_batch(
    gpus: int, gib: float, workers: int, pairs: int, monkeypatch: pytest.MonkeyPatch
):
    on_machine(monkeypatch, gpus, gib)
    sized = group.sized(LLAVA_TRAIN, "llava")
    assert (group.group_size(sized, ""), sized.per_device_batch_size) == (workers, pairs)
    assert sized.global_batch_size == 128
    assert sized.can_share(workers)
    group.check_memory(LLAVA_TRAIN, "llava")


def test_every_size_that_an_elastic_group_may_have_shares_the_batch(monkeypatch: pytest.MonkeyPatch):
    on_machine(monkeypatch, 3, 79.1)
    elastic = Train(min_workers=1, zero_stage=0, global_batch_size=24)
    sized = group.sized(elastic, "llava")
    assert group.group_size(sized, "") == 3
    assert [sized.can_share(number) for number in (1, 2, 3)] == [True] * 3


def test_what_does_not_fit_is_refused_unless_the_check_is_off(monkeypatch: pytest.MonkeyPatch):
    on_machine(monkeypatch, 8, 22.0, LLAVA_13B)
    with pytest.raises(InputError, match=r"^train: about 27 GiB needed on each of 8 GPUs, and a card has 22; "):
        group.check_memory(LLAVA_13B_TRAIN, "llava")
    group.check_memory(replace(LLAVA_13B_TRAIN, memory_check=False), "llava")


def test_what_is_given_stays(monkeypatch: pytest.MonkeyPatch):
    on_machine(monkeypatch, 8, 79.1)
    given = replace(LLAVA_TRAIN, per_device_batch_size=8, num_workers=4)
    assert group.sized(given, "llava") == given


def test_an_engine_that_does_not_fit_is_refused_unless_the_check_is_off(monkeypatch: pytest.MonkeyPatch):
    on_machine(monkeypatch, 1, 22.0)
    monkeypatch.setattr(engine_pool, "capacity", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(engine_pool, "shape_of", lambda directory, options: LLAVA_13B)
    with pytest.raises(
        InputError, match=r"^generate: the weights take 24.9 of the 22 GiB of a card, .*no-memory-check"
    ):
        engine_pool.check_memory(LLAVA_GENERATE, "llava")
    engine_pool.check_memory(replace(LLAVA_GENERATE, memory_check=False), "llava")
