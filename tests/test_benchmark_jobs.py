"""Benchmarks as jobs use them: chosen by their files, through the stages, with what is missing said."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluate import PRESETS, EvaluateJob, main
from seva_ray.benchmarks import Benchmarks, ToyBenchmark
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table, write_table
from seva_ray.engines import Decoding, FakeEngine, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime import cli as job
from seva_ray.stages.evaluate import prepare_benchmarks
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.score_files import read_comparisons, title_of
from seva_ray.toy.prompts import prompts_about
from seva_ray.toy.world import EXIST_CATEGORIES, make_scene

SHORT = "Answer the question using a single word or phrase."


def write_pope(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    for category in EXIST_CATEGORIES:
        lines = [json.dumps({"question_id": number} | row) for number, row in enumerate(rows[category], start=1)]
        (folder / f"coco_pope_{category}.json").write_text("\n".join(lines) + "\n")


def write_gqa(folder: Path) -> Benchmarks:
    """Four questions about two images, of which the second, n8.jpg, is not there."""
    row = {"question": "Is it so?", "answer": "w7", "isBalanced": True, "types": {"structural": "verify"}}
    rows = {str(number): row | {"imageId": image} for number, image in enumerate(("n7", "n7", "n8", "n7"))}
    (folder / "testdev.json").write_text(json.dumps(rows))
    (folder / "images").mkdir()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "images" / "n7.jpg")
    return Benchmarks(gqa=str(folder / "testdev.json"), gqa_images=str(folder / "images"))


def evaluated(folder: Path, benchmarks: Benchmarks, generate: Generate, start: str, policy: str) -> Store:
    root = str(folder / "runs")
    main(EvaluateJob(start=(start,), policy=(policy,), root=root, benchmarks=benchmarks, generate=generate))
    return Store(root)


@pytest.fixture
def two_models(toy_model: str, tmp_path: Path) -> tuple[str, str]:
    """The same weights by two names."""
    other = tmp_path / "other"
    other.symlink_to(toy_model)
    return toy_model, str(other)


def test_a_missing_image_fails_its_own_row_and_the_result_is_named_partial(
    ray_cluster: None, two_models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    store = evaluated(tmp_path, write_gqa(tmp_path), Generate(engine=FakeEngine()), *two_models)
    scores = store.find("scores/gqa-llava-vicuna_v1/other")
    assert scores.counts["num_failed_start"] == scores.counts["num_failed_policy"] == 1
    assert scores.counts["protocol"] == "llava-vicuna_v1"
    asked = scores.recipe["config"]["benchmark"]
    assert (asked["protocol"], asked["system"]) == ("llava", "vicuna_v1")
    title = "gqa-llava-vicuna_v1, partial: of 4 responses 1 of start and 1 of policy failed and count as wrong"
    assert title_of(scores) == title
    said = [line for line in capsys.readouterr().err.splitlines() if "partial" in line]
    reason = "image 'n8.jpg': no such file under image_root"
    assert [line.partition("partial: ")[2] for line in said] == [
        f"1 of 4 responses of {name} failed and count as wrong; first error: {reason}" for name in ("toy", "other")
    ]
    accuracy = next(row for row in read_comparisons(scores) if row.metric == "GQA accuracy")
    assert accuracy.start == 0
    assert accuracy.num_images == 2, "the image that failed is counted, as wrong"


def test_a_whole_result_is_not_called_partial_and_an_answer_file_that_lost_a_row_is_made_again(
    ray_cluster: None, two_models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    benchmarks = write_gqa(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "n8.jpg")
    store = evaluated(tmp_path, benchmarks, Generate(engine=FakeEngine()), *two_models)
    assert title_of(store.find("scores/gqa-llava-vicuna_v1/other")) == "gqa-llava-vicuna_v1"
    assert "partial" not in capsys.readouterr().err

    shard = store.find("responses/other/gqa-llava-vicuna_v1/clean").path(shard_name(0))
    write_table(shard, read_table(shard).slice(1))
    shutil.rmtree(store.uri("scores"))
    evaluated(tmp_path, benchmarks, Generate(engine=FakeEngine()), *two_models)
    assert title_of(store.find("scores/gqa-llava-vicuna_v1/other")) == "gqa-llava-vicuna_v1"
    said = capsys.readouterr().err
    assert "responses/other/gqa-llava-vicuna_v1/clean: shard-000000.parquet has " in said
    assert "this is made again" in said
    assert read_table(shard).num_rows == 4


def test_a_second_file_of_a_benchmark_that_changes_is_another_recipe(tmp_path: Path):
    row = {"question_id": 1, "image_id": "a", "question": "what?", "answers": ["x"] * 10}
    (tmp_path / "val.json").write_text(json.dumps({"data": [row]}))
    for ocr in ("STOP", "EXIT"):
        prompt = {"question_id": "a", "text": f"What?\nReference OCR token: {ocr}\n{SHORT}"}
        (tmp_path / "ocr.jsonl").write_text(json.dumps(prompt))
        files = {"textvqa": "val.json", "textvqa_images": "", "textvqa_ocr": "ocr.jsonl"}
        chosen = Benchmarks(**{name: str(tmp_path / file) for name, file in files.items()}).chosen()  # type: ignore[arg-type]
        if ocr == "STOP":
            prepare_benchmarks(Prepare(), Store(str(tmp_path / "runs")), chosen)
    with pytest.raises(FingerprintMismatch, match="contents of ocr_path"):
        prepare_benchmarks(Prepare(), Store(str(tmp_path / "runs")), chosen)


def test_toy_questions_in_popes_published_format_have_the_numbers_of_the_built_in_benchmark(
    ray_cluster: None, two_models: tuple[str, str], tmp_path: Path
):
    """A model with random weights, whose few words are now and then a no."""
    built_in = ToyBenchmark(num_images=12, camera="clean")
    (tmp_path / "images").mkdir()
    rows: dict[str, list[dict[str, Any]]] = {category: [] for category in EXIST_CATEGORIES}
    for index in range(built_in.num_images):
        for prompt, question in prompts_about(make_scene(built_in.seed, "test", index), "clean", "toy"):
            if question.category is not None:
                (tmp_path / "images" / f"{prompt.image_id}.png").write_bytes(prompt.image_bytes or b"")
                image = f"{prompt.image_id}.png"
                rows[question.category].append({"image": image, "text": question.text, "label": question.answer})
    write_pope(tmp_path, rows)
    benchmarks = Benchmarks(toy_images=built_in.num_images, pope=str(tmp_path), pope_images=str(tmp_path / "images"))
    engine = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=12), system="")
    store = evaluated(tmp_path, benchmarks, engine, *two_models)
    published = {row.metric: row for row in read_comparisons(store.find("scores/pope-seva/other"))}
    toy = {row.metric: row for row in read_comparisons(store.find(f"scores/{built_in.name}/other"))}
    assert len(published) == 20
    for metric, row in published.items():
        assert row.policy == pytest.approx(toy[metric].policy, nan_ok=True), metric
    assert 0 < published["POPE yes-ratio"].policy < 100, "a model that always says yes would prove nothing"


def test_the_chosen_benchmarks_are_those_whose_files_are_given(tmp_path: Path):
    label = {"image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    write_pope(tmp_path, {category: [label] for category in EXIST_CATEGORIES})
    gqa = write_gqa(tmp_path)
    images = str(tmp_path / "images")
    chosen = Benchmarks(
        pope=str(tmp_path), pope_images=images, pope_protocol="llava", gqa=gqa.gqa, gqa_images=images
    ).chosen()
    assert [(benchmark.name, benchmark.protocol) for benchmark in chosen] == [
        ("pope-llava", "llava"),
        ("gqa-llava", "llava"),
    ]
    assert [prompt.question for prompt in chosen[0].prompts()] == [f"Is there a dog?\n{SHORT}"] * 3
    assert Benchmarks().chosen() == []


def test_a_path_that_is_relative_means_the_same_in_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_gqa(tmp_path)
    monkeypatch.chdir(tmp_path)
    (gqa,) = Benchmarks(gqa="testdev.json", gqa_images="images").chosen()
    assert gqa.image_root == str(tmp_path / "images")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"gqa": "x.json"}, "gqa and gqa_images: give all of them or none"),
        ({"amber_images": "x"}, "amber and amber_images: give all of them or none"),
        ({"chair": "x", "chair_images": "x"}, "chair and chair_images and chair_synonyms: give all of them or none"),
        ({"textvqa_ocr": "x"}, "textvqa_ocr: needs textvqa"),
    ],
)
def test_files_without_their_images_are_refused_before_they_are_read(fields: dict[str, str], line: str):
    with pytest.raises(ConfigError) as caught:
        Benchmarks(**fields)  # type: ignore[arg-type]
    assert str(caught.value) == line


def test_a_directory_of_images_that_is_not_there_is_one_line(tmp_path: Path):
    benchmarks = Benchmarks(gqa=write_gqa(tmp_path).gqa, gqa_images=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"^images of gqa-llava: .*nowhere: no such directory$"):
        benchmarks.chosen()


def test_a_wrong_benchmark_file_is_one_line_of_the_job_before_a_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    (tmp_path / "dev.tsv").write_text("index\tquestion\n1\twhat?\n")
    words = ["--root", str(tmp_path / "runs"), "--start", "nowhere", "--benchmarks.mmbench", str(tmp_path / "dev.tsv")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit):
        job.run(main, PRESETS, "test")
    _, line = capsys.readouterr().err.strip().splitlines()
    assert line == f"error: {tmp_path / 'dev.tsv'}: no column 'A'; it has index, question"
