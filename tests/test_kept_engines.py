"""A job starts its engines once: they wait between two generations, and go if something else needs their place."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.engines import Decoding, FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime import kept_engines
from seva_ray.runtime.kept_engines import Keeper, Pool, PoolSettings, engines, make_room
from seva_ray.runtime.resources import HEAD, Need, NodeType
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model

MODELS = [Model(name=name, directory=f"/nowhere/{name}", fingerprint=name) for name in ("start", "policy")]
SETTINGS = PoolSettings(
    alike="a", encoding_memory=100.0, engines=Need("an engine", 2, {"GPU": 1}), most_tasks=4, most_units=10
)


def processes_of(journal: Path) -> set[str]:
    """The processes of the engines that have written into the journal, which is emptied."""
    found = {line.split()[1] for line in journal.read_text().splitlines()}
    journal.write_text("")
    return found


def test_the_second_generation_of_a_job_is_answered_by_the_engines_of_the_first(ray_cluster: None, tmp_path: Path):
    store, journal = Store(str(tmp_path / "runs")), tmp_path / "journal"
    config = Generate(engine=FakeEngine(journal=str(journal)))
    work = [(prepare(Prepare(shard_size=4), store, "toy", ToyWorld(num_images=2)), "clean")]
    with kept_engines.kept_engines():
        first = generate(config, store, MODELS[0], work)
        pool = kept_engines.keepers[-1].pool
        begun = processes_of(journal)
        (second,) = generate(config, store, MODELS[1], work)
        assert processes_of(journal) == begun
        assert kept_engines.keepers[-1].pool is pool
        other = replace(config, decoding=Decoding(max_new_tokens=2))
        generate(other, Store(str(tmp_path / "other")), MODELS[0], work)
        assert not processes_of(journal) & begun, "another length of answers takes other engines"
    assert len(begun) == 1
    assert second.counts == first[0].counts
    assert not kept_engines.keepers


class Counted(Pool):
    """A pool that commits a unit of the oldest task whenever it is asked, and counts what waits."""

    def __init__(self, settings: PoolSettings, commits: Any):
        self.settings, self.num_units = settings, 0
        self.waiting: list[tuple[str, int]] = []
        self.most = 0
        self.closed = False
        self.tasks = SimpleNamespace(add=SimpleNamespace(remote=self.add))
        self.rows = self.commit()

    def add(self, tasks: Sequence[str]) -> None:
        assert tasks
        self.waiting += [(task, int(task.split("x")[1])) for task in tasks]
        self.most = max(self.most, len(self.waiting))

    def commit(self) -> Generator[dict[str, Any], None, None]:
        while True:
            task, left = self.waiting.pop(0)
            self.waiting[:0] = [(task, left - 1)] if left > 1 else []
            yield {"of": task}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """The keeper of a job whose pools do no work."""
    monkeypatch.setattr(kept_engines, "Pool", Counted)
    keeper = Keeper()
    kept_engines.keepers.append(keeper)
    yield keeper
    kept_engines.keepers.remove(keeper)


@pytest.mark.parametrize("sizes", [[1] * 50, [3] * 20, [1, 3] * 10, [2]])
def test_each_unit_comes_once_and_few_tasks_wait_at_a_time(sizes: list[int]):
    pool = Counted(SETTINGS, None)
    tasks = [(f"{number}x{size}", size) for number, size in enumerate(sizes)]
    assert [row["of"] for row in pool.answered(tasks)] == [task for task, size in tasks for _ in range(size)]
    assert pool.most <= SETTINGS.most_tasks * max(sizes)
    assert pool.num_units == sum(sizes)
    assert not pool.waiting


def test_a_pool_is_used_again_if_it_can_answer_the_units_and_is_not_worn_out(counted: Keeper):
    def used(settings: PoolSettings = SETTINGS, num_units: int = 2) -> Pool:
        with engines(settings, lambda tasks: tasks, num_units) as pool:
            pool.num_units += num_units
        assert counted.pool is pool
        return pool

    first = used()
    assert used() is first
    assert used(replace(SETTINGS, encoding_memory=50.0)) is first
    bigger = used(replace(SETTINGS, encoding_memory=200.0))
    assert bigger is not first
    assert first.closed  # type: ignore[attr-defined]
    assert used(replace(SETTINGS, alike="b")) is not bigger
    fresh = used(num_units=7)
    assert used(num_units=3) is fresh
    assert used(num_units=1) is not fresh


def test_no_engine_is_kept_after_an_error_or_outside_of_a_job_that_keeps_it(counted: Keeper):
    found: list[Pool] = []

    def failing() -> None:
        with engines(SETTINGS, lambda tasks: tasks, 1) as pool:
            found.append(pool)
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        failing()
    assert counted.pool is None
    kept_engines.keepers.remove(counted)
    with engines(SETTINGS, lambda tasks: tasks, 1) as pool:
        found.append(pool)
    kept_engines.keepers.append(counted)
    assert [pool.closed for pool in found] == [True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("gpus", "kept"), [(2, False), (4, True)])
def test_engines_go_if_what_comes_next_has_no_room_beside_them(
    counted: Keeper, monkeypatch: pytest.MonkeyPatch, gpus: int, kept: bool
):
    monkeypatch.setattr(kept_engines, "node_types", lambda: [NodeType(name=HEAD, resources={"CPU": 8, "GPU": gpus})])
    with engines(SETTINGS, lambda tasks: tasks, 1) as pool:
        pass
    make_room(Need("a training worker", 2, {"CPU": 1, "GPU": 1}))
    assert (counted.pool is pool) == kept
    assert pool.closed != kept  # type: ignore[attr-defined]
