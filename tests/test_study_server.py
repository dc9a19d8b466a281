"""The study server: what several trials ask for is made once, and what fails harms no other trial."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError, NothingLeft, UserError
from seva_ray.dpo.config import Train
from seva_ray.engines import FakeEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import ToyWorld
from seva_ray.stages import generate as stage
from seva_ray.stages.generate import GenerationTask
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.study.cluster_check import generation_request, training_request
from seva_ray.stages.study.cost import ResourceRecord, at_work
from seva_ray.stages.study.generation_queue import GenerationRequest
from seva_ray.stages.study.resource_queue import ResourceQueue
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.study_results import best_of, headline
from seva_ray.stages.study.study_server import StudyServer, capped
from seva_ray.studies.space import Point
from seva_ray.vlm.models import Model
from tests import studies

MODEL = Model(name="fake", directory="nowhere", fingerprint="fake")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def context(ray_cluster: None, tmp_path: Path, journal: Path) -> StudyContext:
    store = Store(str(tmp_path / "runs"))
    return StudyContext(
        store=store,
        generate=Generate(engine=FakeEngine(journal=str(journal), seconds_per_request=0.02)),
        pair=Pair(),
        train=Train(),
        evaluate=Evaluate(),
        benchmarks=[],
        tests=[],
        prompts={(None, None): prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=4))},
        base_models=[MODEL],
        seeds=[0],
        objective=("", ""),
        capacity={"CPU": 2},
        on_gpus=False,
    )


def test_what_several_ask_for_at_once_is_generated_once(context: StudyContext, journal: Path):
    server, prompts = StudyServer(context), context.prompts[None, None]
    views = ["clean", "diffusion-300", "diffusion-600"]
    with ThreadPoolExecutor(6) as trials:
        asked = [[(MODEL, prompts, view) for view in ("clean", views[1 + n % 2])] for n in range(6)]
        answered = list(trials.map(server.generation.responses, asked))
    for work, artifacts in zip(asked, answered, strict=True):
        assert [artifact.name.rsplit("/", 1)[-1] for artifact in artifacts] == [view for _, _, view in work]
    served = Counter(line.split()[2] for line in journal.read_text().splitlines())
    assert set(served.values()) == {len(views)}, "each prompt once in each view"


def test_what_the_study_needs_at_its_end_is_made_by_the_engines_of_the_first_point(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch
):
    prompts = context.prompts[None, None]
    server = StudyServer(context, ahead=[(MODEL, prompts, "moco")])
    monkeypatch.setattr(server.groups, "train", lambda trainings: [])
    monkeypatch.setattr(server, "score_files_of", lambda policies: {})
    served: list[list[str]] = []

    def generated(config: Generate, store: Store, tasks: Sequence[GenerationTask]) -> Iterator[Artifact]:
        served.append([view for _, _, view in tasks])
        return stage.generated(config, store, tasks)

    monkeypatch.setattr("seva_ray.stages.study.generation_queue.generated", generated)
    for beta in (0.1, 0.2):
        server.measure_point(Point(**studies.point("diffusion-600", beta)))
    assert [sorted(views) for views in served] == [["clean", "diffusion-600", "moco"]]
    (ahead,) = server.generation.responses([(MODEL, prompts, "moco")])  # nobody has waited for it so far
    assert ahead.complete


def test_a_request_that_fails_reports_to_its_trial_and_the_others_get_their_responses(context: StudyContext):
    server, prompts = StudyServer(context), context.prompts[None, None]
    broken = replace(prompts, uri=f"{prompts.uri}-gone", name="prompts/gone")
    with ThreadPoolExecutor(2) as trials:
        bad = trials.submit(server.generation.responses, [(MODEL, broken, "clean")])
        good = trials.submit(server.generation.responses, [(MODEL, prompts, "clean")])
        assert good.result(120)[0].complete
        with pytest.raises((UserError, RuntimeError)):
            bad.result(120)
    (later,) = server.generation.responses([(MODEL, prompts, "diffusion-300")])
    assert later.complete, "the engines of the failed pool gave their CPUs back"


def test_a_limit_above_the_number_of_pairs_is_the_same_run_as_no_limit(context: StudyContext, tmp_path: Path):
    store = Store(str(tmp_path / "pairs"))
    pairs = store.open("pairs/x", config={}).finish({"verdicts": {"kept": 43}})
    limits = [capped(Train(num_pairs=limit), pairs).num_pairs for limit in (None, 43, 96, 20)]
    assert limits == [43, 43, 43, 20]


def test_a_pool_requests_what_it_may_grow_to_and_never_more_than_the_cluster_has():
    generate = Generate(min_engines=1, max_engines=4)
    assert generation_request(generate, {"CPU": 16}) == {"CPU": 5}
    assert generation_request(generate, {"CPU": 3}) == {"CPU": 3}
    assert generation_request(generate, {"CPU": 1}) == {"CPU": 2}, "which is more than the cluster has"
    sharded = replace(generate, engine=replace(generate.engine, tensor_parallel_size=2))  # type: ignore[arg-type]
    assert generation_request(sharded, {"CPU": 64, "GPU": 6}) == {"GPU": 6}
    assert generation_request(sharded, {"CPU": 64, "GPU": 16}) == {"GPU": 8}
    assert generation_request(replace(sharded, max_engines=None), {"CPU": 64, "GPU": 16}) == {"GPU": 16}


def test_if_the_cluster_has_kinds_of_nodes_a_request_names_its_kind():
    pools = {"CPU": 32, "GPU": 12, "generation": 4, "training": 8}
    generate = Generate(min_engines=1, max_engines=6)
    assert generation_request(generate, pools) == {"GPU": 4, "generation": 4}
    on_cpus = replace(generate, engine=FakeEngine())
    assert generation_request(on_cpus, pools) == {"CPU": 5, "generation": 4}
    assert training_request(Train(), pools) == {"GPU": 8, "training": 8}
    assert training_request(Train(), {"GPU": 8}) == {"GPU": 8}
    assert training_request(Train(num_workers=4), {"GPU": 8}) == {"GPU": 4}


def test_if_low_is_good_the_lowest_point_is_the_best_and_a_fall_is_a_gain():
    chair = ("amber", "AMBER CHAIR, low is good")
    rows = [studies.row(value, beta=beta, metric=chair) for value, beta in ((3.0, 0.1), (-4.0, 0.2), (-1.0, 0.3))]
    assert best_of(rows, chair, 500) == Point(**rows[1].point)
    assert [row.gain for row in rows] == [-3.0, 4.0, 1.0]


def test_the_terminal_line_says_if_the_best_points_gain_may_be_chance():
    sure, unsure = (headline("moco", studies.row(2.0, half=half)) for half in (1.0, 2.5))
    assert sure == "Best: moco: f1 61.2 -> 63.2, +2.0 [+1.0, +3.0] on toy-yesno."
    assert unsure == (
        "Best: moco: f1 61.2 -> 63.2, +2.0 [-0.5, +4.5] on toy-yesno. "
        "The 95% interval holds 0, so it is not distinguishable from no gain."
    )


def test_the_best_is_among_the_points_on_the_planned_number_of_pairs():
    most, planned, beyond = (studies.row(gain, num_pairs=size) for gain, size in ((9.0, None), (5.0, 500), (3.0, 1000)))
    assert best_of([planned, beyond], studies.OBJECTIVE, 500) == Point(**planned.point)
    assert best_of([most, planned, beyond], studies.OBJECTIVE, math.inf) == Point(**most.point)
    assert best_of([planned, beyond], studies.OBJECTIVE, 250) == Point(**planned.point)
    assert best_of([], studies.OBJECTIVE, 500) is None


def test_an_error_of_the_point_is_its_result_and_any_other_error_is_repeated_without_another_try(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch
):
    reported: list[str] = []
    server, values = StudyServer(context, lambda point, found: reported.append(found)), studies.point()
    tries = []

    def fails(error: Exception) -> None:
        def measure_point(point: Point) -> None:
            tries.append(point)
            raise error

        monkeypatch.setattr(server, "measure_point", measure_point)

    fails(NothingLeft("no pair is left"))
    assert server.measure(values, 500)["error"] == "no pair is left"
    fails(InputError("disk: full"))
    for _ in range(2):
        with pytest.raises(UserError, match="disk: full"):
            server.measure(values, 250)
    assert reported == ["no pair is left", "disk: full"]
    assert len(tries) == 2


def test_without_gpus_one_group_of_workers_trains_at_a_time(context: StudyContext):
    cpus = StudyServer(replace(context, train=Train(num_workers=2), capacity={"CPU": 16}))
    gpus = StudyServer(replace(context, train=Train(num_workers=2), capacity={"GPU": 16}, on_gpus=True))
    assert [server.resources.num_free(server.groups.request) for server in (cpus, gpus)] == [1, 8]
    with cpus.resources.hold(cpus.groups.request):
        assert cpus.resources.num_free(cpus.groups.request) == 0


def test_engines_are_no_more_than_the_study_may_use(context: StudyContext, monkeypatch: pytest.MonkeyPatch):
    used = []

    def generated(config: Generate, *_: object) -> list:
        used.append(config.max_engines)
        return []

    monkeypatch.setattr("seva_ray.stages.study.generation_queue.generated", generated)
    generate = Generate(engine=VllmEngine(), max_engines=8)
    many = replace(context, generate=generate, capacity={"CPU": 8, "GPU": 2}, on_gpus=True)
    request = GenerationRequest(tasks=[(MODEL, context.prompts[None, None], "clean")])
    StudyServer(many).generation.serve([request], last_try=False)
    assert used == [2]


def test_time_at_work_counts_what_overlaps_once_and_pauses_not_at_all(tmp_path: Path):
    def made(start: float, end: float) -> Artifact:
        return Artifact(name="x", uri="x", recipe={}, record={"seconds": end - start, "finished": end})

    assert at_work([made(0, 10), made(5, 12), made(6, 7), made(20, 25)]) == 17
    assert at_work([]) == 0


def test_resources_held_add_up_over_restarts(tmp_path: Path):
    for seconds in (1800, 3600):
        record = ResourceRecord(str(tmp_path))
        with pytest.raises(ZeroDivisionError), ResourceQueue({"GPU": 4}, record).hold({"GPU": 2}, "train"):
            raise ZeroDivisionError
        record("generate", {"GPU": 4, "generation": 4}, seconds)
    (tmp_path / "held" / "half.json.part").write_text("{")
    found = ResourceRecord(str(tmp_path)).hours("GPU")
    assert list(found) == ["generate", "train"]
    assert found["generate"] == 6
    assert 0 < found["train"] < 0.01
    assert ResourceRecord(str(tmp_path / "none")).hours("GPU") == {}
