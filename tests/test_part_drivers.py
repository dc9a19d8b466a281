"""Many units are dealt out in parts to drivers of their own: each unit is made once, whatever dies."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import Counts
from seva_ray.engines.units import ENGINES_PER_DRIVER, Unit, Units
from seva_ray.sources import ToyWorld
from seva_ray.stages import part_drivers
from seva_ray.stages.generate import generate
from seva_ray.stages.part_drivers import PartDriver, parts_of, shares
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.chaos.runs import shards

COUNTS = Counts.of('{"numbers": {"num_responses": 2}, "reasons": {}}')


def units(numbers: Sequence[int], view: str = "clean", prompts: str = "p", num_rows: int = 8) -> Units:
    like = Unit(
        model="m",
        model_directory="d",
        prompts_uri=prompts,
        responses_uri=f"{prompts}/{view}",
        view=view,
        system="",
        image_root=None,
        num_rows=num_rows,
        below=("b",),
    )
    return Units(like, np.array(numbers, np.int32))


def test_units_are_made_of_what_they_share_and_the_number_of_their_shard():
    found = units([3, 5, 9])
    assert [unit.responses_uri for unit in found] == [f"p/clean/shard-00000{number}.parquet" for number in (3, 5, 9)]
    assert found[1].prompts_uri == "p/shard-000005.parquet"
    assert found[-1].below == ("b/shard-000009.parquet",)
    assert found[1].images == ""
    assert list(found.between(4, 9).numbers) == [5]
    assert list(found.only([True, False, True]).numbers) == [3, 9]
    assert list(found[1:].numbers) == [5, 9]


def test_each_unit_is_in_one_part_with_the_other_views_of_its_shard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part_drivers, "UNITS_PER_PART", 6)
    missing = [units(range(10)), units([0, 1, 2, 7, 11], "pad-20"), units(range(4), prompts="other")]
    parts = list(parts_of(missing))
    every = [unit for part in parts for of_view in part for unit in of_view]
    assert sorted(map(repr, every)) == sorted(repr(unit) for of_view in missing for unit in of_view)
    places: dict[str, set[int]] = {}
    for number, part in enumerate(parts):
        assert sum(map(len, part)) <= 6
        for of_view in part:
            for unit in of_view:
                places.setdefault(unit.prompts_uri, set()).add(number)
    assert all(len(found) == 1 for found in places.values())


@pytest.mark.parametrize("most", [1, 64, 65, 1000])
def test_the_engines_are_divided_among_the_drivers(most: int):
    found = shares(Generate(engine=FakeEngine(), min_engines=min(most, 70), max_engines=1000), most)
    assert sum(share.max_engines or 0 for share in found) == most
    assert all(share.min_engines <= (share.max_engines or 0) <= ENGINES_PER_DRIVER for share in found)


class Pools:
    """Stands for engines: it commits units in turn, as soon as `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.runs: list[list[str]] = []
        self.bad = ""

    def answered(self, config: Generate, first: Unit, most: int, drawn: Iterable[Sequence[Unit]], *hints: int) -> Any:
        assert self.go.wait(60)
        self.runs.append([])
        for shard in drawn:
            for unit in shard:
                if unit.responses_uri == self.bad:
                    raise ValueError("bad unit")
                self.runs[-1].append(unit.responses_uri)
                yield {"responses_uri": unit.responses_uri, "counts": COUNTS.text()}


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    pools = Pools()
    monkeypatch.setattr(part_drivers, "answered", pools.answered)
    monkeypatch.setattr(part_drivers, "restarted", lambda: False)
    monkeypatch.setattr(part_drivers, "kept_engines", nullcontext)  # a driver keeps its engines as long as its process
    return pools


def results(driver: PartDriver, pools: Pools, parts: Sequence[Sequence[Units]]) -> list[Any]:
    """The result of each part, or its error. All of them are there before the first is begun."""
    with ThreadPoolExecutor(len(parts)) as threads:
        calls = []
        for number, part in enumerate(parts):
            calls.append(threads.submit(driver.make, part))
            while number and driver.inbox.qsize() < number:
                pass
        pools.go.set()
        return [call.exception() or call.result() for call in calls]


def test_parts_that_wait_go_on_with_the_same_engines_unless_they_need_more_memory(pools: Pools):
    driver = PartDriver(Generate(engine=FakeEngine()))
    small = [[units([0, 1]), units([0], "pad-20")], [units([2])]]
    big = [units([3, 4], num_rows=64)]
    (first, second), (third,), (fourth,) = results(driver, pools, [*small, big])
    assert [len(run) for run in pools.runs] == [4, 2]
    assert (first[:2], second[:2]) == (("p/clean", 2), ("p/pad-20", 1))
    assert (third[:2], fourth[:2]) == (("p/clean", 1), ("p/clean", 2))
    assert first[2].numbers["num_responses"] == 4


def test_an_error_ends_the_parts_at_work_and_is_told_to_those_who_wait_for_them(pools: Pools):
    driver = PartDriver(Generate(engine=FakeEngine()))
    pools.bad = "p/clean/shard-000002.parquet"
    done, failed = results(driver, pools, [[units([0, 1])], [units([2, 3])]])
    assert done[0][1] == 2
    assert str(failed) == "bad unit"
    pools.bad = ""
    assert driver.make([units([2])])[0][1] == 1


def test_a_driver_that_died_makes_only_what_is_not_there(pools: Pools, monkeypatch: pytest.MonkeyPatch):
    there = {"p/clean/shard-000000.parquet", "p/clean/shard-000001.parquet", "p/clean/shard-000003.parquet"}
    monkeypatch.setattr(part_drivers, "restarted", lambda: True)
    monkeypatch.setattr(part_drivers, "is_committed", lambda unit: unit.responses_uri in there)
    monkeypatch.setattr(part_drivers, "read_counts", lambda uri, view: COUNTS)
    driver = PartDriver(Generate(engine=FakeEngine()))
    (whole,), (some,) = results(driver, pools, [[units([0, 1])], [units([2, 3])]])
    assert (whole[1], some[1]) == (2, 2)
    assert [uri for run in pools.runs for uri in run] == ["p/clean/shard-000002.parquet"]
    assert some[2].numbers["num_responses"] == 4


def test_many_units_are_made_in_parts_with_the_same_bytes_and_counts(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config, model = Generate(engine=FakeEngine(failing_share=0.1)), Model(name="m", directory="/none", fingerprint="")
    made = []
    for place in ("together", "parts"):
        if place == "parts":
            monkeypatch.setattr("seva_ray.stages.generate.UNITS_PER_DRIVER", 3)
            monkeypatch.setattr(part_drivers, "UNITS_PER_PART", 4)
        store = Store(str(tmp_path / place))
        prompts = prepare(Prepare(shard_size=4), store, "toy", ToyWorld(num_images=6))
        made.append(generate(config, store, model, [(prompts, "clean"), (prompts, "diffusion-500")]))
    assert prompts.counts["num_shards"] > 4
    for together, parts in zip(*made, strict=True):
        assert together.counts == parts.counts
        assert together.counts["num_error"]
        assert shards(together.uri) == shards(parts.uri)
