"""lmms-eval: files that it wrote about two toy models (tests/lmms_eval), and it itself where it is installed."""

import json
import os
import shutil
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import HarnessJob, main
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.engines import Decoding, Request, TransformersEngine
from seva_ray.scoring.lmms_eval import (
    NAME,
    VERSION,
    Harness,
    check_installed,
    compare_scores,
    first_error,
    num_unanswered,
)
from seva_ray.stages.answers import notes
from seva_ray.stages.harness import compare_runs, open_run, run_task, scores_of_run
from seva_ray.stages.score_files import Evaluate, read_comparisons, title_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model
from tests.conftest import random_model
from tests.own_task import MAX_NEW_TOKENS, TASK, questions, write_task

FILES = Path(__file__).parent / "lmms_eval"
SIDES = ("start", "policy")
INSTALLED = Path(__file__).parent.parent / ".venv-harness" / "bin" / "python"
needs_harness = pytest.mark.skipif(not INSTALLED.exists(), reason="lmms-eval is not installed: make harness")


def right(side: str) -> dict[int, float]:
    """The score of each question, straight from the log of samples."""
    lines = (FILES / side / "samples" / f"{TASK}.jsonl").read_text().splitlines()
    return {row["doc_id"]: row["exact_match"] for row in map(json.loads, lines)}


def reported(side: str) -> dict[str, Any]:
    return json.loads((FILES / side / "results.json").read_text())["results"][TASK]


# Files that it wrote


def test_a_mean_over_questions_is_compared_by_a_paired_bootstrap_of_the_questions():
    start, policy = (scores_of_run(str(FILES / side)) for side in SIDES)
    row, _ = compare_scores(start, policy, num_resamples=2000, seed=0)
    assert row.metric == f"{TASK} exact_match"
    assert [row.start, row.policy] == pytest.approx([100 * reported(side)["exact_match,none"] for side in SIDES])
    differences = np.array([right("policy")[question] - value for question, value in right("start").items()])
    assert row.difference == pytest.approx(100 * differences.mean())
    assert row.difference != 0, "both models are equally good: nothing is tested"
    resampled = np.random.default_rng(1).choice(differences, (20000, len(differences))).mean(axis=1)
    low, high = 100 * np.quantile(resampled, [0.025, 0.975])
    step = 100 / len(differences)
    assert [row.difference_low, row.difference_high] == pytest.approx([low, high], abs=1.01 * step)
    assert row.num_images == len(differences)


def test_a_value_that_is_no_mean_of_logged_scores_has_no_difference():
    start, policy = (scores_of_run(str(FILES / side)) for side in SIDES)
    _, row = compare_scores(start, policy, num_resamples=100, seed=0)
    assert row.metric == f"{TASK} total (own scale)"
    assert [row.start, row.policy] == [reported(side)["total,none"] for side in SIDES]
    assert np.isnan([row.difference, row.difference_low, row.difference_high]).all()


def test_runs_on_different_questions_are_not_compared():
    start, policy = (scores_of_run(str(FILES / side)) for side in SIDES)
    question = next(iter(policy.asked))
    changed = replace(policy, asked={**policy.asked, question: "another question"})
    with pytest.raises(InputError, match="not asked the same questions"):
        compare_scores(start, changed, num_resamples=100, seed=0)


def test_the_scores_of_two_runs_are_found_with_the_policys_other_scores_and_say_whose_they_are(tmp_path: Path):
    store = Store(str(tmp_path))
    config = Harness(limit=12)
    runs = []
    for side in SIDES:
        run = open_run(config, store, TASK, Model(name=side, directory="", fingerprint=side)).begin()
        shutil.copytree(FILES / side / "samples", Path(run.uri, "samples"))
        Path(run.uri, "results.json").symlink_to(FILES / side / "results.json")
        runs.append(run.finish({}))
    start, policy = runs
    scores = compare_runs(config, Evaluate(), store, TASK, start, policy, "policy")
    assert store.names("scores") == [f"scores/{NAME}-{TASK}/policy"]
    assert title_of(scores) == f"{NAME}-{TASK}"
    assert scores.counts["protocol"] == f"{NAME} {VERSION} {TASK}"
    (note,) = notes(scores)
    assert f"No difference is given for {TASK} total (own scale)" in note
    assert "Only the first 12 rows" in note
    assert next(row.metric for row in read_comparisons(scores)) == f"{TASK} exact_match"
    assert list(scores.recipe["inputs"]) == [run.name for run in runs]


# What goes in, what is wrong


def test_secrets_stay_out_of_its_environment_and_it_is_offline_unless_told(monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    found = Harness(keep_variables=("OPENAI_API_KEY",)).environment()
    assert [name for name, value in found.items() if value == "secret"] == ["OPENAI_API_KEY"]
    assert found["PATH"] == os.environ["PATH"]
    assert [found["HF_HUB_OFFLINE"], Harness(download=True).environment()["HF_HUB_OFFLINE"]] == ["1", "0"]


def test_a_missing_or_another_lmms_eval_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere/python: No such file or directory; `make harness` installs"):
        check_installed(Harness(python="nowhere/python"))
    (tmp_path / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="has no lmms-eval"):
        check_installed(Harness(python=str(tmp_path / "python")))
    (tmp_path / "other").write_text("#!/bin/sh\necho 0.3.0\n")
    (tmp_path / "other").chmod(0o755)
    with pytest.raises(InputError, match=f"has lmms-eval 0.3.0, not {VERSION}"):
        check_installed(Harness(python=str(tmp_path / "other")))


def test_a_run_that_fails_keeps_its_log_and_takes_no_name(tmp_path: Path):
    python = tmp_path / "python"  # what lmms-eval's interpreter is asked: its version, and then to run
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {VERSION} && exit\necho "ValueError: no such task"\nexit 1\n')
    python.chmod(0o755)
    config, store = Harness(python=str(python)), Store(str(tmp_path / "runs"))
    run = open_run(config, store, TASK, Model(name="m", directory=str(tmp_path), fingerprint=""))
    with pytest.raises(InputError, match=f"ValueError: no such task; its log: {run.uri}/log.txt"):
        run_task(config, TASK, str(tmp_path), run, "cpu")
    assert [path.name for path in Path(run.uri).iterdir()] == ["log.txt"]


def test_a_job_that_cannot_work_is_refused_before_a_model_is_looked_for(tmp_path: Path):
    job = HarnessJob(start="nowhere", policy="nowhere", root=str(tmp_path))
    with pytest.raises(ConfigError, match="tasks: none is named"):
        main(job)
    with pytest.raises(InputError, match="make harness"):
        main(replace(job, tasks=("mme",), harness=Harness(python="nowhere/python")))


def test_an_error_that_was_caught_and_raised_again_is_told_by_its_cause():
    log = (FILES / "no_data.txt").read_text()
    assert (
        first_error(log) == "ConnectionError: Couldn't reach 'lmms-lab-encoder/MME' on the Hub (OfflineModeIsEnabled)"
    )
    assert first_error("one\n\nKilled\n") == "Killed"
    assert first_error("") == "no output"


def test_questions_that_the_model_failed_on_are_counted():
    assert num_unanswered((FILES / "unanswered.txt").read_text()) == 2
    assert num_unanswered((FILES / "no_data.txt").read_text()) == 0


# It itself


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_task(tmp_path_factory.mktemp("own"), num_images=8))


@needs_harness
def test_both_models_answer_an_own_task_as_they_answer_us_and_nothing_is_run_twice(
    ray_cluster: None, toy_model: str, tasks_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    other = random_model(tmp_path / "other", seed=6)
    config = Harness(python=str(INSTALLED), tasks_dir=tasks_dir)
    job = HarnessJob(start=toy_model, policy=other, tasks=(TASK,), root=str(tmp_path / "runs"), harness=config)
    main(job)
    store = Store(job.root)
    scores = store.find(f"scores/{NAME}-{TASK}/other")
    answers = []
    for directory, run in zip((toy_model, other), scores.recipe["inputs"], strict=True):
        lines = Path(store.uri(run), "samples", f"{TASK}.jsonl").read_text().splitlines()
        answers.append([row["filtered_resps"] for row in map(json.loads, lines)])
        assert answers[-1] == our_answers(directory, num_images=8)
    assert answers[0] != answers[1]
    assert len(set(answers[0])) > 1, "all answers are equal: nothing is tested"
    capsys.readouterr()
    main(job)
    assert "to do" not in capsys.readouterr().err


def our_answers(directory: str, num_images: int) -> list[str]:
    encoder = Encoder(directory)
    requests = [
        Request(
            prompt_id=prompt.prompt_id,
            row=encoder.row(question.text, Image.open(BytesIO(prompt.image_bytes or b""))),
            image_id=prompt.image_id,
        )
        for index in range(num_images)
        for prompt, question in questions(index)
    ]
    engine = TransformersEngine().load(directory, Decoding(max_new_tokens=MAX_NEW_TOKENS))
    return [response.text for response in engine.generate(requests)]


@needs_harness
def test_an_unknown_task_is_one_line_with_the_place_of_its_log_and_the_other_task_is_kept(
    ray_cluster: None, toy_model: str, tasks_dir: str, tmp_path: Path
):
    config = Harness(python=str(INSTALLED), tasks_dir=tasks_dir, limit=2)
    job = HarnessJob(start=toy_model, policy=toy_model, tasks=("no_task", TASK), root=str(tmp_path), harness=config)
    with pytest.raises(InputError) as caught:
        main(job)
    line = str(caught.value)
    log = tmp_path / "harness" / "no_task" / "toy" / "log.txt"
    assert "1 of 2 runs failed; no_task on toy: ValueError: Tasks not found: no_task" in line
    assert line.endswith(f"its log: {log}")
    assert log.exists()
    assert Store(str(tmp_path)).names("harness") == [f"harness/{TASK}/toy"]
