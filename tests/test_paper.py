"""The paper's tables and figures as experiments: their list, their price, and the authors' numbers beside ours."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import experiments
import paper
import test_time as test_time_job
from seva_ray.benchmarks import Benchmarks
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.pages.paper_page import joint_rows
from seva_ray.runtime import cli
from seva_ray.scoring.paper_numbers import BASE, COLUMNS, ROWS, beside
from seva_ray.sources import ToyWorld
from seva_ray.stages.evaluate import compare
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate, read_comparisons, scores_of
from tests import judged_files
from tests.answered import responses
from tests.test_benchmark_jobs import write_gqa

AT_FULL_SIZE = {name: item for name, item in paper.PRESETS.items() if not name.startswith(("toy-", "list"))}
README = """
| SeVa-7B diffusion-500 | 70.7 | 35.5 | 64.7 | 58.8 | 86.8 | 65.8 | 32.7 | 67.4 | 61.1 |
| SeVa-7B diffusion-800 | 72.2 | 37.2 | 65.6 | 59.2 | 86.7 | 65.8 | 34.9 | 67.5 | 60.7 |
| SeVa-7B moco | 72.5 | 37.0 | 65.2 | 59.8 | 86.6 | 65.5 | 32.9 | 67.1 | 60.9 |
"""
"""The authors' table: LLaVA-Bench, MM-Vet, MMB, MMB-CN, POPE, SEED, SHR, SQA, GQA."""


def test_the_papers_numbers_are_those_of_the_authors_table():
    columns = ("LLaVA-W", "MM-Vet", "MMB", "MMB-CN", "POPE", "SEED", "SHR", "SQA", "GQA")
    for line in README.strip().splitlines():
        name, *values = [cell.strip() for cell in line.strip("| ").split("|")]
        assert [ROWS[name][column] for column in columns] == [float(value) for value in values]
    assert all(column in COLUMNS for row in ROWS.values() for column in row)


def test_every_experiment_has_a_toy_form_a_claim_and_its_line_in_the_document():
    document = (Path(__file__).parent.parent / "docs" / "PAPER.md").read_text(encoding="utf-8")
    for name, item in AT_FULL_SIZE.items():
        toy = paper.PRESETS[f"toy-{name}"]
        assert type(toy) is type(item)
        assert item.claim
        assert f"| `{name}` |" in document
        if not isinstance(toy, paper.Views):
            assert isinstance(toy.source, ToyWorld)
    rows = {item.row for item in AT_FULL_SIZE.values() if item.row}
    assert rows == ROWS.keys() - {BASE}


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["paper.py", *words])
    cli.run(paper.main, paper.PRESETS, "test")
    return capsys.readouterr().out


def test_without_a_word_all_experiments_are_listed_and_a_part_of_a_name_finds_some(monkeypatch, capsys):
    assert len(said(monkeypatch, capsys).splitlines()) == 2 * len(AT_FULL_SIZE)
    shown = said(monkeypatch, capsys, "--name", "7b-moco")
    assert [line.split()[0] for line in shown.splitlines()] == ["main-7b-moco", "toy-main-7b-moco"]
    with pytest.raises(ConfigError, match="name nothing: no experiment has it in its name"):
        paper.main(paper.Listing(name="nothing"))


def test_a_plan_comes_from_the_planner_and_runs_nothing(monkeypatch, capsys, tmp_path):
    rates = ["--rates.rows-per-s", "5", "--rates.start-s", "180", "--rates.step-s", "8", "--rates.kept-share", "0.675"]
    root = ["--plan", "--root", str(tmp_path)]
    shown = said(monkeypatch, capsys, "main-7b-diffusion800", *root, *rates)
    assert "16,000 prompts in 63 shards" in shown
    assert "169 steps of 128 pairs" in shown, "10,800 pairs twice, as in the released models"
    assert re.search(r"total +>= \S+ min", shown)
    assert "The plan holds no evaluation: no benchmark is chosen." in shown
    shown = said(monkeypatch, capsys, "ablation-beta", *root, *rates)
    assert "policies: 15, base models: 1, sets of prompts: 1, sets of pairs: 1" in shown, "five values, three seeds"
    assert "126 units, 32,000 responses" in shown, "clean and one view, which all betas share"
    # 15 trainings of 169 steps of 8 s on 8 GPUs
    assert hours_of(shown, "train") == pytest.approx(15 * 169 * 8 * 8 / 3600, abs=0.06)
    shown = said(monkeypatch, capsys, "ablation-source", *root, *rates)
    assert "policies: 15, base models: 1, sets of prompts: 5, sets of pairs: 5" in shown
    assert "320 units, 80,000 responses" in shown, "five data sets of 8,000 prompts, in two views"
    shown = said(monkeypatch, capsys, "ablation-data", *root, *rates)
    steps = 22 + 43 + 85 + 169  # 1,350, 2,700, 5,400 and all 10,800 pairs, twice, in batches of 128
    assert hours_of(shown, "train") == pytest.approx(3 * steps * 8 * 8 / 3600, abs=0.06)
    assert {path.name for path in tmp_path.iterdir()} == {"plans"}


def hours_of(plan: str, stage: str) -> float:
    """GPU-hours of a stage in the table of the whole study."""
    (hours,) = re.findall(rf"^{stage} +>= ([\d.,]+) +>= [\d.]+ ", plan.partition("The whole study")[2], re.MULTILINE)
    return float(hours)


def test_a_plan_counts_the_questions_of_the_benchmarks_and_those_to_the_judge(monkeypatch, capsys, tmp_path):
    folder = judged_files.mm_vet(tmp_path / "mm_vet")
    words = ["--plan", "--root", str(tmp_path / "runs"), "--judged.mm-vet", folder, "--judge.num-repeats", "2"]
    shown = said(monkeypatch, capsys, "main-7b-moco", *words)
    assert "passes of the base model: clean, moco, benchmarks" in shown
    assert "The judge gets at most 12 questions" in shown, "three questions, two models, two repeats"
    assert "The plan holds no evaluation" not in shown
    shown = said(monkeypatch, capsys, "fig2", *words, "--rates.rows-per-s", "0.001")
    assert "4 passes over 3 questions, no training: 3.3 hours of an engine" in shown
    shown = said(monkeypatch, capsys, "ablation-beta", *words, "--benchmarks.pope", "", "--benchmarks.pope-images", "")
    assert re.search(r"evaluate .* 51 responses of 17 models and views", shown), "15 policies, the start, and one view"


def test_a_part_is_a_method_or_a_model_and_is_the_run_of_the_experiment_that_makes_it_alone():
    small, large = AT_FULL_SIZE["table-size"].policies()
    assert (small.model, small.train.zero_stage) == ("llava-1.5-7b-hf", 2)
    assert (large.model, large.train.zero_stage) == ("llava-1.5-13b-hf", 3)
    assert (small.name, large.name) == (AT_FULL_SIZE["main-7b-diffusion500"].name, AT_FULL_SIZE["main-13b"].name)
    assert large.train == AT_FULL_SIZE["main-13b"].train
    assert paper.PRESETS["main-7b-diffusion800"].pair.max_per_source == {"ocr_vqa": 4300, "textvqa": 6500}
    for kind in ("", "toy-"):
        parts = paper.PRESETS[f"{kind}table-methods"].policies()
        alone = [paper.PRESETS[f"{kind}{name}"] for name in ("table-sft", "table-gt", "table-gt-sft")]
        alone.insert(0, paper.PRESETS[f"{kind}main-7b-diffusion500"])
        keys = [(run.name, run.chosen, run.train, run.views, run.pair, run.model) for run in parts]
        assert keys == [(run.name, run.chosen, run.train, run.views, run.pair, run.model) for run in alone]
        assert [(run.chosen, run.train.loss.name) for run in parts] == [
            ("clean", "sigmoid"), ("clean", "sft"), ("ground-truth", "sigmoid"), ("ground-truth", "sft"),
        ]  # fmt: skip


def test_a_study_in_the_toy_world_varies_what_it_varies_at_full_size():
    for name, item in AT_FULL_SIZE.items():
        if isinstance(item, experiments.Study):
            toy = paper.PRESETS[f"toy-{name}"]
            varied = [
                {axis for axis, values in of.space.axes(of.train).items() if len(values) > 1} for of in (item, toy)
            ]
            assert varied[0] == varied[1], name
    steps = paper.PRESETS["toy-ablation-step"].space.plain_views()
    assert steps == ["diffusion-200", "diffusion-500", "diffusion-800"]


def test_each_experiment_has_a_page_of_its_own():
    pages = [item.page for item in paper.PRESETS.values() if isinstance(item, experiments.Experiment)]
    assert len(set(pages)) == len(pages) == 2 * len(AT_FULL_SIZE)


def test_policies_of_one_experiment_stand_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture):
    store = Store(str(tmp_path / "runs"))
    write_gqa(tmp_path)
    (gqa,) = Benchmarks(gqa=str(tmp_path / "testdev.json"), gqa_images=str(tmp_path / "images")).chosen()
    prompts = prepare(Prepare(), store, gqa.name, gqa)
    right = {question.prompt.prompt_id: question.label for question in gqa.questions}  # type: ignore[attr-defined]
    wrong = dict.fromkeys(right, "none of it")
    for policy, model, answers in (("size-7b", "small", wrong), ("size-13b", "large", right)):
        before, after = responses(store, prompts, model, wrong), responses(store, prompts, policy, answers)
        compare(Evaluate(num_resamples=100), store, gqa, prompts, before, after, policy)
    config = replace(AT_FULL_SIZE["table-size"], root=store.root, name="size")
    paper.write_page(config)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"  GQA accuracy on {gqa.name}",
        "    size-7b: 0.0 -> 0.0, +0.0 [+0.0, +0.0]",
        "    size-13b: 0.0 -> 100.0, +100.0 [+100.0, +100.0]",
    ]
    page = Path(store.uri("papers/table-size/index.html")).read_text()
    assert "Policies beside each other" in page
    assert "0.0 -&gt; 100.0, +100.0 [+100.0, +100.0]" in page
    only = joint_rows({"a": {}, "b": {gqa.name: replace(next(iter(scores(store, "size-13b"))), metric="m")}})
    assert only[0].cells["a"] is None


def scores(store: Store, policy: str):
    return read_comparisons(scores_of(store, policy)[0])


def test_the_authors_numbers_stand_beside_ours_with_our_interval(tmp_path: Path, capsys: pytest.CaptureFixture):
    store = Store(str(tmp_path / "runs"))
    write_gqa(tmp_path)
    files = {"gqa": str(tmp_path / "testdev.json"), "gqa_images": str(tmp_path / "images")}
    (gqa,) = Benchmarks(**files, system="generation").chosen()  # type: ignore[arg-type]
    prompts = prepare(Prepare(), store, gqa.name, gqa)
    right = {question.prompt.prompt_id: question.label for question in gqa.questions}  # type: ignore[attr-defined]
    wrong = dict.fromkeys(right, "none of it")
    before, after = responses(store, prompts, "start", wrong), responses(store, prompts, "policy", right)
    scores = compare(Evaluate(num_resamples=100), store, gqa, prompts, before, after, "seva")
    config = replace(paper.PRESETS["main-7b-moco"], root=store.root, name="seva")
    paper.write_page(config)
    ours = next(row for row in read_comparisons(scores) if row.metric == "GQA accuracy")
    assert ours.policy != ours.start, "otherwise nothing is shown"
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"  GQA: paper 62.0 -> 60.9; ours {ours.start:.1f} -> {ours.policy:.1f}, ")
    page = Path(store.uri("papers/main-7b-moco/index.html")).read_text()
    assert "beside each other" not in page, "it is one policy"
    assert "not published" not in page
    for shown in ("62.0", "60.9", gqa.name, "Row of the paper: SeVa-7B moco.", "GQA accuracy on"):
        assert shown in page
    (row,) = beside("no such row", {gqa.name: read_comparisons(scores)})
    assert (row.paper_start, row.paper_policy) == (62.0, None)


def test_benchmarks_in_views_are_scored_against_the_clean_images_without_training(
    ray_cluster: None, toy_model: str, tmp_path: Path
):
    config = test_time_job.TestTime(
        root=str(tmp_path / "runs"),
        model=toy_model,
        views=("diffusion-900", "moco"),
        generate=Generate(engine=FakeEngine(), system=""),
        benchmarks=Benchmarks(toy_images=3),
        evaluate=Evaluate(num_resamples=100),
    )
    test_time_job.main(config)
    store, name = Store(config.root), Path(toy_model).name
    assert len(scores_of(store, f"{name}+moco")) == len(scores_of(store, f"{name}+diffusion-900")) == 2, "two cameras"
    of_view = scores_of(store, f"{name}+moco")[0]
    assert [item.rpartition("/")[2] for item in of_view.recipe["inputs"]] == ["clean", "moco"]
    assert not store.names("policies")
    with pytest.raises(ConfigError, match="views clean: at least one, and all augmented ones"):
        replace(config, views=("clean",))
