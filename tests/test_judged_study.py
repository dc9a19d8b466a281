"""A study whose objective a judge decides, and one whose axis is the data set that prompts come from."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import sweep
from seva_ray.benchmarks.judged import JudgedBenchmarks
from seva_ray.benchmarks.judged.mm_vet import MmVet
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, UserError
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_table
from seva_ray.dpo.config import Train
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import Folder, LlavaJson, ToyWorld
from seva_ray.stages.generate import open_responses
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate, read_comparisons
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.study_server import StudyServer
from seva_ray.studies.space import Point, Space
from seva_ray.vlm.models import Model
from tests import judged_files
from tests.judge_server import KEY, JudgeServer, says
from tests.test_judge_stage import BETTER, START, grades

BASE, GOOD, SAME = (Model(name=name, directory="nowhere", fingerprint=name) for name in ("base", "good", "same"))


def answered(context: StudyContext, model: Model, tests: Artifact, answers: Mapping[str, str]) -> None:
    """Complete responses of the model, as generation would have stored them."""
    artifact = open_responses(context.generate, context.store, model, tests, "clean")
    shard = shard_name(0)
    ids = read_table(tests.path(shard))["prompt_id"].to_pylist()
    rows = [Response(prompt_id=key, text=answers[key], token_ids=[1], finish_reason="stop") for key in ids]
    write_table(artifact.path(shard), table(rows, RESPONSE_SCHEMA))
    artifact.finish({})


def test_a_judge_scores_each_answer_of_a_study_once_and_gets_the_key_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    benchmark = MmVet(path=judged_files.mm_vet(tmp_path / "mm_vet"))
    store = Store(str(tmp_path / "runs"))
    tests = prepare(Prepare(), store, benchmark.name, benchmark)
    with JudgeServer(says(grades)) as judge_server:
        judge = replace(judge_server.judge(), key_variable="KEY_OF_THE_STUDY")
        context = StudyContext(
            store=store,
            generate=Generate(engine=FakeEngine()),
            pair=Pair(),
            train=Train(),
            evaluate=Evaluate(num_resamples=100),
            benchmarks=[benchmark],
            tests=[tests],
            prompts={},
            base_models=[BASE],
            seeds=[0],
            objective=(benchmark.name, "MM-Vet"),
            capacity={"CPU": 2},
            on_gpus=False,
            judge=judge,
        )
        for model, answers in ((BASE, START), (GOOD, BETTER), (SAME, START)):
            answered(context, model, tests, answers)
        server = StudyServer(context)
        monkeypatch.delenv("KEY_OF_THE_STUDY", raising=False)
        with pytest.raises(UserError, match="KEY_OF_THE_STUDY: not set"):
            server.score_files_of([GOOD])
        monkeypatch.setenv("KEY_OF_THE_STUDY", "")  # so that it is as before after the test
        server.ready(KEY)
        with ThreadPoolExecutor(2) as trials:
            good, same = trials.map(lambda policy: server.score_files_of([policy]), [GOOD, SAME])
        calls = judge_server.calls
    assert len(calls) == len({call.prompt for call in calls}) == 5, "START has three different answers, BETTER two more"
    assert {call.headers["Authorization"] for call in calls} == {f"Bearer {KEY}"}
    gains = {}
    for policy, found in (("good", good), ("same", same)):
        (scores,) = found[benchmark.name]
        assert scores.name == f"scores/{benchmark.name}/{policy}"
        gains[policy] = next(row.gain for row in read_comparisons(scores) if row.metric == "MM-Vet")
    assert gains == {"good": pytest.approx(50), "same": 0}
    assert "judge" in context.identity()
    assert "judge" not in replace(context, judge=None).identity(), "a study without a judge has the recipe that it had"


def test_the_objective_may_be_a_metric_of_a_judged_benchmark_and_the_best_policys_command_has_its_judge(tmp_path: Path):
    folder = judged_files.mm_vet(tmp_path / "mm_vet")
    judged = JudgedBenchmarks(mm_vet=folder)
    benchmarks = judged.chosen()
    config = replace(sweep.PRESETS["llava-7b"], judged=judged, metric="MM-Vet", benchmark=benchmarks[0].name)
    assert sweep.objective(config, benchmarks) == (benchmarks[0].name, "MM-Vet")
    with pytest.raises(ConfigError, match=r"metric 'luck': mm-vet-own-prompt has MM-Vet, MM-Vet rec, "):
        sweep.objective(replace(config, metric="luck"), benchmarks)
    point = config.space.grid(config.train)[0]
    policy = Store(str(tmp_path)).open("policies/best", config={}, inputs=[]).finish({"num_pairs": 7})
    words = shlex.split(sweep.command_of(config, "llava-7b", point, 0, policy))
    assert words[words.index("--judged.mm-vet") + 1] == folder


def test_each_data_set_alone_is_a_set_of_prompts_with_a_name_of_its_own(tmp_path: Path):
    source = LlavaJson(path="mix.json", image_root="images")
    config = replace(
        sweep.PRESETS["llava-7b"],
        source=source,
        space=Space(views=("moco",), prompt_seeds=(0, 1), sources=("textvqa", "gqa")),
    )
    found = dict(sweep.source_of(config, item) for item in config.space.prompt_sets())
    assert {name: of.wanted for name, of in found.items()} == {
        "llava-mix-textvqa-seed0": {"textvqa": 8000}, "llava-mix-textvqa-seed1": {"textvqa": 8000},
        "llava-mix-gqa-seed0": {"gqa": 4000}, "llava-mix-gqa-seed1": {"gqa": 4000},
    }  # fmt: skip
    assert [of.seed for of in found.values()] == [0, 0, 1, 1]
    points = config.space.grid(config.train)
    assert {point.prompt_set for point in points} == set(config.space.prompt_sets())
    with pytest.raises(ConfigError, match="source 'sam': must be one of ocr_vqa, textvqa, gqa, vg, coco"):
        replace(config, space=Space(sources=("sam",)))
    with pytest.raises(ConfigError, match="sources clean: Folder is one data set"):
        replace(config, source=Folder(path=str(tmp_path)), space=Space(sources=("clean",)))
    cameras = [ToyWorld().alone(camera) for camera in ("clean", "deployment")]
    assert not {p.prompt_id for p in cameras[0].prompts()} & {p.prompt_id for p in cameras[1].prompts()}
    own = LlavaJson(path="own.json", image_root="images", folders={"sam": 5, "art": 0}).alone("art")
    assert own.folders == {"art": 0}


def test_a_point_of_an_older_study_has_no_data_set_and_keeps_its_place_in_a_sample():
    space, train = Space(betas=(0.1, 0.2, 0.3)), Train()
    for point in space.grid(train):
        older = {name: value for name, value in asdict(point).items() if name != "source"}
        assert Point(**older) == point
        assert "source" not in point.label
    assert space.prompt_sets() == [(None, None)]
    assert np.unique([point.label for point in space.sample(train, 3, 0)]).size == 3
