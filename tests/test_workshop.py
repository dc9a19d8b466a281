"""The server of a study: what several trials ask for is made once, and what fails harms no other."""

import math
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError, NothingLeft, UserError
from seva_ray.dpo.config import Train
from seva_ray.engines import FakeEngine
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import Generate
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.study.cluster_check import claim_of_generation, claim_of_training
from seva_ray.stages.study.cost import Holdings, at_work
from seva_ray.stages.study.driver import best_of
from seva_ray.stages.study.resource_requests import Lanes
from seva_ray.stages.study.study_server import Bench, Order, StudyServer, settled
from seva_ray.studies.space import Point
from seva_ray.vlm.models import Model
from tests import studies

MODEL = Model(name="fake", directory="nowhere", fingerprint="fake")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def bench(ray_cluster: None, tmp_path: Path, journal: Path) -> Bench:
    store = Store(str(tmp_path / "runs"))
    return Bench(
        store=store,
        generate=Generate(engine=FakeEngine(journal=str(journal), seconds_per_request=0.02)),
        pair=Pair(),
        train=Train(),
        evaluate=Evaluate(),
        benchmarks=[],
        tests=[],
        prompts={None: prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=4))},
        starts=[MODEL],
        seeds=[0],
        objective=("", ""),
        capacity={"CPU": 2},
        on_gpus=False,
    )


def test_what_several_ask_for_at_once_is_generated_once(bench: Bench, journal: Path):
    server, prompts = StudyServer(bench), bench.prompts[None]
    views = ["clean", "diffusion-300", "diffusion-600"]
    with ThreadPoolExecutor(6) as trials:
        asked = [[(MODEL, prompts, view) for view in ("clean", views[1 + n % 2])] for n in range(6)]
        answered = list(trials.map(server.responses, asked))
    for work, artifacts in zip(asked, answered, strict=True):
        assert [artifact.name.rsplit("/", 1)[-1] for artifact in artifacts] == [view for _, _, view in work]
    served = Counter(line.split()[2] for line in journal.read_text().splitlines())
    assert set(served.values()) == {len(views)}, "each prompt once in each view"


def test_one_that_fails_tells_its_asker_and_the_others_have_their_answers(bench: Bench):
    server, prompts = StudyServer(bench), bench.prompts[None]
    broken = replace(prompts, uri=f"{prompts.uri}-gone", name="prompts/gone")
    with ThreadPoolExecutor(2) as trials:
        bad = trials.submit(server.responses, [(MODEL, broken, "clean")])
        good = trials.submit(server.responses, [(MODEL, prompts, "clean")])
        assert good.result(120)[0].complete
        with pytest.raises((UserError, RuntimeError)):
            bad.result(120)
    (later,) = server.responses([(MODEL, prompts, "diffusion-300")])
    assert later.complete, "the engines of the failed pool gave their CPUs back"


def test_a_limit_above_the_pairs_that_there_are_is_the_same_run_as_none(bench: Bench, tmp_path: Path):
    store = Store(str(tmp_path / "pairs"))
    pairs = store.open("pairs/x", config={}).finish({"verdicts": {"kept": 43}})
    limits = [settled(Train(num_pairs=limit), pairs).num_pairs for limit in (None, 43, 96, 20)]
    assert limits == [43, 43, 43, 20]


def test_a_pool_claims_as_much_as_it_may_grow_to_and_never_more_than_there_is():
    generate = Generate(min_engines=1, max_engines=4)
    assert claim_of_generation(generate, {"CPU": 16}, on_gpus=False) == {"CPU": 5}
    assert claim_of_generation(generate, {"CPU": 3}, on_gpus=False) == {"CPU": 3}
    assert claim_of_generation(generate, {"CPU": 1}, on_gpus=False) == {"CPU": 2}, "which is more than there is"
    sharded = replace(generate, engine=replace(generate.engine, tensor_parallel_size=2))  # type: ignore[arg-type]
    assert claim_of_generation(sharded, {"GPU": 6}, on_gpus=True) == {"GPU": 6}
    assert claim_of_generation(sharded, {"GPU": 16}, on_gpus=True) == {"GPU": 8}


def test_where_nodes_are_of_kinds_a_claim_is_for_those_of_its_kind():
    pools = {"CPU": 32, "GPU": 12, "generation": 4, "training": 8}
    generate = Generate(min_engines=1, max_engines=6)
    assert claim_of_generation(generate, pools, on_gpus=True) == {"GPU": 4, "generation": 4}
    assert claim_of_generation(generate, pools, on_gpus=False) == {"CPU": 5, "generation": 4}
    assert claim_of_training(Train(), pools, on_gpus=True) == {"GPU": 8, "training": 8}
    assert claim_of_training(Train(), {"GPU": 8}, on_gpus=True) == {"GPU": 8}


def test_where_low_is_good_the_lowest_point_is_the_best_and_a_fall_is_a_gain():
    chair = ("amber", "AMBER CHAIR, low is good")
    rows = [studies.row(value, beta=beta, metric=chair) for value, beta in ((3.0, 0.1), (-4.0, 0.2), (-1.0, 0.3))]
    assert best_of(rows, chair, 500) == Point(**rows[1].point)
    assert [row.gain for row in rows] == [-3.0, 4.0, 1.0]


def test_the_best_is_among_the_points_on_the_planned_number_of_pairs():
    most, planned, beyond = (studies.row(gain, num_pairs=size) for gain, size in ((9.0, None), (5.0, 500), (3.0, 1000)))
    assert best_of([planned, beyond], studies.OBJECTIVE, 500) == Point(**planned.point)
    assert best_of([most, planned, beyond], studies.OBJECTIVE, math.inf) == Point(**most.point)
    assert best_of([planned, beyond], studies.OBJECTIVE, 250) == Point(**planned.point)
    assert best_of([], studies.OBJECTIVE, 500) is None


def test_an_error_of_the_points_own_is_its_result_and_any_other_is_told_again_without_another_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    server, values = StudyServer(bench, lambda point, found: told.append(found)), studies.point()
    tries = []

    def fails(error: Exception) -> None:
        def measured(point: Point) -> None:
            tries.append(point)
            raise error

        monkeypatch.setattr(server, "measured", measured)

    fails(NothingLeft("no pair is left"))
    assert server.measure(values, 500)["error"] == "no pair is left"
    fails(InputError("disk: full"))
    for _ in range(2):
        with pytest.raises(UserError, match="disk: full"):
            server.measure(values, 250)
    assert told == ["no pair is left", "disk: full"]
    assert len(tries) == 2


def test_without_gpus_one_group_of_workers_trains_at_a_time(bench: Bench):
    cpus = StudyServer(replace(bench, train=Train(num_workers=2), capacity={"CPU": 16}))
    gpus = StudyServer(replace(bench, train=Train(num_workers=2), capacity={"GPU": 16}, on_gpus=True))
    assert [server.lanes.room(server.groups.claim) for server in (cpus, gpus)] == [1, 8]
    with cpus.lanes.hold(cpus.groups.claim):
        assert cpus.lanes.room(cpus.groups.claim) == 0
        assert cpus.lanes.room(cpus.claim) == 7, "what the reference takes is not a group"


def test_engines_are_no_more_than_the_study_may_use(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    used = []

    def generated(config: Generate, *_: object) -> list:
        used.append(config.max_engines)
        return []

    monkeypatch.setattr("seva_ray.stages.study.study_server.generated", generated)
    many = replace(bench, generate=replace(bench.generate, max_engines=8), capacity={"GPU": 2}, on_gpus=True)
    order = Order(work=[(MODEL, bench.prompts[None], "clean")], answered=Future())
    StudyServer(many).answer([order], last=False)
    assert used == [2]


def test_time_at_work_counts_what_overlaps_once_and_pauses_not_at_all(tmp_path: Path):
    def made(start: float, end: float) -> Artifact:
        return Artifact(name="x", uri="x", recipe={}, record={"seconds": end - start, "finished": end})

    assert at_work([made(0, 10), made(5, 12), made(6, 7), made(20, 25)]) == 17
    assert at_work([]) == 0


def test_what_was_held_adds_up_over_restarts(tmp_path: Path):
    for seconds in (1800, 3600):
        holdings = Holdings(str(tmp_path))
        with pytest.raises(ZeroDivisionError), Lanes({"GPU": 4}, holdings).hold({"GPU": 2}, "train"):
            raise ZeroDivisionError
        holdings("generate", {"GPU": 4, "generation": 4}, seconds)
    (tmp_path / "held" / "half.json.part").write_text("{")
    found = Holdings(str(tmp_path)).hours("GPU")
    assert list(found) == ["generate", "train"]
    assert found["generate"] == 6
    assert 0 < found["train"] < 0.01
    assert Holdings(str(tmp_path / "none")).hours("GPU") == {}
