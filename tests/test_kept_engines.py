"""A job starts its engines once: they wait between two generations, and go if something else needs their place."""

import json
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seva_ray.core import ownership
from seva_ray.core.artifacts import Store
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.planning.memory import GIB
from seva_ray.runtime import kept_engines
from seva_ray.runtime.kept_engines import Keeper, ListLost, Pool, PoolSettings, engines, make_room
from seva_ray.runtime.resources import HEAD, Need, NodeType
from seva_ray.sources import ToyWorld
from seva_ray.stages import engine_pool
from seva_ray.stages.engine_pool import pooled
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.test_part_drivers import units

MODELS = [Model(name=name, directory=f"/nowhere/{name}", fingerprint=name) for name in ("start", "policy")]
SETTINGS = PoolSettings(
    alike="a", encoding_memory=100.0, engines=Need("an engine", 2, {"GPU": 1}), most_tasks=4, most_units=10
)


def processes_of(journal: Path) -> set[str]:
    """The processes of the engines that have written into the journal, which is emptied."""
    found = {line.split()[1] for line in journal.read_text().splitlines()}
    journal.write_text("")
    return found


def test_the_second_generation_of_a_job_is_answered_by_the_engines_of_the_first(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from ray.data import DataContext

    # By itself Ray Data gives up engines that have had nothing to do for half an hour, such as during a training.
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1.0)
    store, journal = Store(str(tmp_path / "runs")), tmp_path / "journal"
    config = Generate(engine=FakeEngine(journal=str(journal)))
    work = [(prepare(Prepare(shard_size=4), store, "toy", ToyWorld(num_images=2)), "clean")]
    with kept_engines.kept_engines():
        first = generate(config, store, MODELS[0], work)
        pool = kept_engines.keepers[-1].pool
        begun = processes_of(journal)
        time.sleep(2)
        (second,) = generate(config, store, MODELS[1], work)
        assert processes_of(journal) == begun
        assert kept_engines.keepers[-1].pool is pool
        other = replace(config, decoding=Decoding(max_new_tokens=2))
        generate(other, Store(str(tmp_path / "other")), MODELS[0], work)
        assert not processes_of(journal) & begun, "another length of answers takes other engines"
    assert len(begun) == 1
    assert second.counts == first[0].counts
    assert not kept_engines.keepers


def test_whatever_ends_while_engines_wait_the_next_generation_answers_each_prompt_once(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import ray

    store, journal = Store(str(tmp_path / "runs")), tmp_path / "journal"
    config = Generate(engine=FakeEngine(journal=str(journal)))
    prompts = prepare(Prepare(shard_size=4), store, "toy", ToyWorld(num_images=2))
    asked = read_table(prompts.path(shard_name(0)))["prompt_id"].to_pylist()

    def answers(name: str) -> set[str]:
        """The engines that have answered this model's prompts."""
        model = Model(name=name, directory="/nowhere", fingerprint=name)
        (made,) = generate(config, store, model, [(prompts, "clean")])
        served = [line.split()[2] for line in journal.read_text().splitlines()]
        assert len(served) == len(set(served)) == made.counts["num_responses"], "each once"
        assert set(asked) <= set(served)
        return processes_of(journal)

    with kept_engines.kept_engines():
        (first,) = answers("first")
        os.kill(int(first), signal.SIGKILL)
        (second,) = answers("second")
        pool = kept_engines.keepers[-1].pool
        assert pool
        ray.kill(pool.tasks)
        capsys.readouterr()
        (third,) = answers("third")
        assert "the process that deals out the units has ended; new engines make the rest" in capsys.readouterr().err
        assert kept_engines.keepers[-1].pool is not pool
    assert len({first, second, third}) == 3


class Counted(Pool):
    """A pool that commits a unit of the oldest task whenever it is asked, and counts what waits."""

    def __init__(self, settings: PoolSettings, commits: Any):
        self.settings, self.num_units = settings, 0
        self.waiting: list[tuple[str, int]] = []
        self.lost_after = 10**9
        self.most = 0
        self.closed = False
        self.tasks = SimpleNamespace(add=SimpleNamespace(remote=self.add))
        self.rows = self.commit()

    def add(self, tasks: Sequence[str]) -> None:
        assert tasks
        self.waiting += [(task, int(task.split("x")[1])) for task in tasks]
        self.most = max(self.most, len(self.waiting))

    def commit(self) -> Generator[dict[str, Any], None, None]:
        for _ in range(self.lost_after):
            task, left = self.waiting.pop(0)
            self.waiting[:0] = [(task, left - 1)] if left > 1 else []
            yield {"of": task}
        raise ListLost

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


@pytest.mark.parametrize(
    ("gpus", "num_engines", "num_workers", "num_nodes", "address", "kept"),
    [
        pytest.param(1, 1, 1, 1, "local", False, id="one GPU"),
        pytest.param(2, 2, 2, 1, "local", False, id="two GPUs"),
        pytest.param(8, 8, 8, 1, "local", False, id="eight GPUs"),
        pytest.param(8, 4, 4, 1, "local", True, id="eight GPUs for both"),
        pytest.param(8, 4, 5, 1, "local", False, id="eight GPUs and nine wanted"),
        pytest.param(4, 2, 2, 2, "local", False, id="two nodes"),
        pytest.param(8, 4, 4, 1, "10.0.0.7:6379", False, id="a node that others may have joined"),
        pytest.param(1, 1, 0, 1, "local", True, id="a long stage without Ray"),
        pytest.param(1, 1, 0, 1, "10.0.0.7:6379", False, id="a long stage without Ray beside others"),
    ],
)
def test_engines_go_if_what_comes_next_has_no_room_beside_them(
    counted: Keeper,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    num_engines: int,
    num_workers: int,
    num_nodes: int,
    address: str,
    kept: bool,
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    node = NodeType(name=HEAD, resources={"CPU": 16, "GPU": gpus})
    monkeypatch.setattr(kept_engines, "node_types", lambda: [node] * num_nodes)
    settings = replace(SETTINGS, engines=Need("an engine", num_engines, {"CPU": 1, "GPU": 1}))
    with engines(settings, lambda tasks: tasks, 1) as pool:
        pass
    make_room(Need("training workers", num_workers, {"CPU": 0, "GPU": 1}))
    assert (counted.pool is pool) == kept
    assert pool.closed != kept  # type: ignore[attr-defined]


@pytest.mark.parametrize(("free_gib", "kept"), [(8.0, True), (5.9, False), (-0.5, False)])
def test_engines_go_where_training_lacks_memory_without_gpus_and_a_line_says_so(
    counted: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_gib: float, kept: bool
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.utils.get_system_memory", lambda: 20 * GIB)
    monkeypatch.setattr("ray._private.utils.estimate_available_memory", lambda: (free_gib + 1) * GIB)
    monkeypatch.setattr(kept_engines, "node_types", lambda: [NodeType(name=HEAD, resources={"CPU": 2})])
    with engines(replace(SETTINGS, engines=Need("an engine", 1, {"CPU": 0})), lambda tasks: tasks, 1) as pool:
        pass
    make_room(Need("training workers", 2, {"CPU": 1}), memory=6.0 * GIB)
    assert pool.closed != kept  # type: ignore[attr-defined]
    assert capsys.readouterr().err == (
        ""
        if kept
        else "generate: the engines end now, because the training workers take about 6.0 GiB of memory and "
        f"{max(0.0, free_gib):.1f} are free; if answers are needed later, engines start again\n"
    )


def test_a_job_that_waits_for_another_one_keeps_no_engines_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Otherwise two jobs of a cluster wait for ever: one for the other's answers, that one for an engine."""
    monkeypatch.setattr(kept_engines, "Pool", Counted)
    monkeypatch.setattr(ownership, "LOOKS_EVERY_S", 0.02)

    def owns(*names: str) -> None:
        with ownership.owned(str(tmp_path), names):
            pass

    with kept_engines.kept_engines(), ThreadPoolExecutor(1) as other:
        with engines(SETTINGS, lambda tasks: tasks, 1) as pool:
            owns("responses/x")
        owns("responses/x", "responses/y")
        assert not pool.closed, "nobody is waited for"  # type: ignore[attr-defined]
        with ownership.owned(str(tmp_path), ["responses/x"]):
            waiting, ends = other.submit(owns, "responses/x"), time.monotonic() + 60
            while not pool.closed:  # type: ignore[attr-defined]
                assert time.monotonic() < ends
                time.sleep(0.02)
        waiting.result()
    assert not ownership.before_waiting


def test_if_the_list_of_tasks_is_lost_the_next_pool_makes_the_units_that_are_left(
    counted: Keeper, monkeypatch: pytest.MonkeyPatch
):
    shards = [units(range(2), prompts=f"p{number}") for number in range(6)]
    pools: list[Counted] = []

    class Lost(Counted):
        """Makes three units. What it has made of its oldest task is not made again."""

        def __init__(self, settings: PoolSettings, commits: Any):
            super().__init__(settings, commits)
            self.lost_after = 5 if len(pools) < 2 else 10**9
            pools.append(self)

        def add(self, tasks: Sequence[str]) -> None:
            self.waiting += [(unit["responses_uri"], 1) for task in tasks for unit in json.loads(task)]

        def commit(self) -> Generator[dict[str, Any], None, None]:
            for row in super().commit():
                yield {"responses_uri": row["of"]}

    monkeypatch.setattr(kept_engines, "Pool", Lost)
    made = [row["responses_uri"] for row in pooled(SETTINGS, lambda tasks: tasks, shards, 12)]
    assert sorted(made) == sorted(unit.responses_uri for shard in shards for unit in shard)
    assert [pool.closed for pool in pools] == [True, True, False]
    monkeypatch.setattr(engine_pool, "MOST_POOLS", 1)
    pools.clear()
    counted.let_go()
    with pytest.raises(ListLost):
        list(pooled(SETTINGS, lambda tasks: tasks, shards, 12))
