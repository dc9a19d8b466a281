"""Groups of training workers: what waits is trained together, in shares, and a failure harms no other training."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import NothingLeft
from seva_ray.core.storage import write_bytes
from seva_ray.dpo.config import Train
from seva_ray.stages.study.named_locks import NamedLocks
from seva_ray.stages.study.resource_queue import ResourceQueue
from seva_ray.stages.study.worker_groups import WorkerGroups
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import Model
from tests.test_resource_queue import until

MODEL = Model(name="fake", directory="nowhere", fingerprint="fake")
REQUEST = {"GPU": 2}


class Workers:
    """A stand-in for Ray Train: a group trains as soon as it may, and records what."""

    def __init__(self, store: Store, may_begin: threading.Event):
        self.store, self.may_begin = store, may_begin
        self.groups: list[list[str]] = []

    def train_all(self, store: Store, trainings: Sequence[Training]) -> list[Artifact]:
        self.groups.append([training.name for training in trainings])
        assert self.may_begin.wait(20)
        for training in trainings:
            policy = training.open(store)
            if training.name.startswith("broken"):
                raise RuntimeError(f"{training.name} has no memory")
            if training.name.startswith("wild"):
                write_bytes(policy.path("diverged.txt"), b"loss is nan at step 2")
            elif not policy.complete:
                policy.finish({})
        return []


@pytest.fixture
def may_begin() -> threading.Event:
    return threading.Event()


@pytest.fixture
def workers(tmp_path: Path, may_begin: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Workers:
    workers = Workers(Store(str(tmp_path)), may_begin)
    monkeypatch.setattr("seva_ray.stages.study.worker_groups.train_all", workers.train_all)
    monkeypatch.setattr("seva_ray.stages.study.worker_groups.GATHERING_S", 0.1)
    return workers


def training(workers: Workers, name: str, num_pairs: int = 500) -> Training:
    return Training(
        config=Train(num_pairs=num_pairs), name=name, model=MODEL, pairs=workers.store.open("pairs/x", config={})
    )


def groups_on(workers: Workers, resources: ResourceQueue) -> WorkerGroups:
    return WorkerGroups(workers.store, resources, REQUEST, NamedLocks())


def trained(workers: Workers, names: Sequence[str], gpus: int, num_pairs: int = 500) -> list[Future]:
    """Trainings that all wait before the first group may begin."""
    resources = ResourceQueue({"GPU": gpus})
    groups, threads = groups_on(workers, resources), ThreadPoolExecutor(len(names))
    with resources.hold({"GPU": gpus}):
        asked = [threads.submit(groups.train, [training(workers, name, num_pairs)]) for name in names]
        until(lambda: len(resources.waiting) == len(names))
        workers.may_begin.set()
    return asked


def test_all_that_waits_is_trained_by_one_group_if_one_group_fits(workers: Workers):
    asked = trained(workers, ["a", "b", "c"], gpus=2)
    assert [[policy.name for policy in future.result(20)] for future in asked] == [
        ["policies/a"], ["policies/b"], ["policies/c"]
    ]  # fmt: skip
    assert list(map(sorted, workers.groups)) == [["a", "b", "c"]]


def test_each_group_has_its_share_if_several_groups_fit(workers: Workers):
    for future in trained(workers, ["a", "b", "c", "d"], gpus=4):
        future.result(20)
    assert sorted(name for group in workers.groups for name in group) == ["a", "b", "c", "d"]
    assert all(len(group) <= 2 for group in workers.groups)


def test_a_long_training_has_a_group_of_its_own(workers: Workers):
    for future in trained(workers, ["a", "b"], gpus=2, num_pairs=10_000):
        future.result(20)
    assert sorted(workers.groups) == [["a"], ["b"]]


def test_a_training_that_fails_or_diverges_reports_to_its_trial_and_the_others_are_trained(workers: Workers):
    broken, wild, good = trained(workers, ["broken", "wild", "good"], gpus=2)
    assert good.result(20)[0].complete
    with pytest.raises(RuntimeError, match="broken has no memory"):
        broken.result(20)
    with pytest.raises(NothingLeft, match="policies/wild: loss is nan at step 2"):
        wild.result(20)


def test_a_policy_that_exists_is_not_trained_again(workers: Workers, may_begin: threading.Event):
    may_begin.set()
    for _ in range(2):
        (policy,) = groups_on(workers, ResourceQueue(REQUEST)).train([training(workers, "a")])
        assert policy.complete
    assert workers.groups == [["a"]]
