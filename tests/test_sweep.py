"""A study, run as a user runs it: searched, reported, its best policy found again, and gone on with after a kill."""

import contextlib
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import sweep
from seva_ray.core.artifacts import Store
from seva_ray.runtime import cli
from seva_ray.stages.study.sweep import line_of
from tests.listeners import beyond_loopback, run_watched

JOBS = Path(__file__).parent.parent / "jobs"


def command(root: Path | str, model: str, name: str, *extra: str) -> list[str]:
    return [
        sys.executable, str(JOBS / "sweep.py"), "--root", str(root), "--name", name, "--prompts", "toy",
        "--models", model, "--seeds", "0", "1", "--space.views", "diffusion-600", "--space.swapped",
        "--space.curve", "--space.curve-views", "--search.num-rungs", "2", "--train.num-pairs", "48",
        "--benchmarks.toy-images", "10", "--prepare.shard-size", "64", *extra,
        "source:toy-world", "--source.num-images", "30",
    ]  # fmt: skip


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def policies(root: Path) -> dict[Path, int]:
    """Finished ones, and when."""
    return {path: path.stat().st_mtime_ns for path in root.glob("policies/*/record.json")}


def wait_for(number: int, root: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
    while len(policies(root)) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def trials_of(study: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(study.pid).children(recursive=True) if is_trial(child)]


def is_trial(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "ImplicitFunc" in " ".join(process.cmdline())
    return False


def small(root: Path, model: str) -> list[str]:
    return command(root, model, "small", "--space.views", "diffusion-600", "pad-0", "--space.betas", "0.1", "0.3")


@pytest.fixture(scope="module")
def root(trained_toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was run to its end."""
    root = tmp_path_factory.mktemp("runs")
    done, listeners = run_watched(small(root, trained_toy))
    assert done.returncode == 0, done.stderr
    assert {"gcs_server", "raylet"} <= {name for name, _ in listeners}
    assert not beyond_loopback(listeners), "nothing of the study can be reached from another machine"
    return root


def rows(root: Path, name: str) -> list[dict[str, str]]:
    with (root / "studies" / name / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_point_ends_with_an_interval_or_with_its_error(root: Path):
    found = rows(root, "small")
    sought = [row for row in found if row["metric"] == "VQA accuracy"]
    assert {(row["arm"], row["beta"]) for row in sought} == {("diffusion-600", "0.1"), ("diffusion-600", "0.3")}
    for row in sought:
        assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
        assert len(json.loads(row["differences"])) == 2
    failed = [row for row in found if row["error"]]
    assert {row["arm"] for row in failed} == {"pad-0"}
    assert all("no pair is left" in row["error"] for row in failed)
    counts = Store(str(root)).find("studies/small").counts
    assert counts["num_trials"] == 4
    assert counts["num_failed"] == 2


def test_how_far_the_best_is_ahead_is_told_for_every_other_point(root: Path):
    sought = [row for row in rows(root, "small") if row["metric"] == "VQA accuracy"]
    best = max(sought, key=lambda row: float(row["difference"]))
    for row in sought:
        if row is best:
            assert row["ahead"] == "nan"
            continue
        assert float(row["ahead"]) == pytest.approx(float(best["policy"]) - float(row["policy"]))
        assert float(row["ahead_low"]) <= float(row["ahead"]) <= float(row["ahead_high"])


@pytest.mark.slow
def test_a_study_whose_trials_and_then_its_driver_were_killed_goes_on_and_ends_like_any_other(
    root: Path, trained_toy: str, tmp_path: Path
):
    words = small(tmp_path, trained_toy)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(1, tmp_path, process)
        trials = trials_of(process)
        assert trials
        for trial in trials:
            trial.kill()
        wait_for(2, tmp_path, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "studies" / "small" / "record.json").exists()
    before = policies(tmp_path)
    again = run(words)
    assert again.returncode == 0, again.stderr
    assert before.items() <= policies(tmp_path).items(), "what was finished is not done again"
    found, expected = (
        {(row["arm"], row["beta"], row["metric"], row["num_pairs"], row["error"]) for row in rows(each, "small")}
        for each in (tmp_path, root)
    )
    assert found == expected


@pytest.mark.slow
def test_halving_leaves_the_worse_point_on_few_pairs(root: Path, trained_toy: str):
    words = ("--seeds", "0", "--space.betas", "0.1", "0.3", "--search.scheduler", "asha", "--no-test-time")
    done = run(command(root, trained_toy, "halved", *words))
    assert done.returncode == 0, done.stderr
    on_pairs = {(row["beta"], row["num_pairs"]) for row in rows(root, "halved") if row["metric"] == "VQA accuracy"}
    assert {pairs for _, pairs in on_pairs} == {"24", "48"}
    assert {beta for beta, pairs in on_pairs if pairs == "24"} == {"0.1", "0.3"}


def test_each_view_was_generated_once_for_all_points(root: Path, trained_toy: str):
    generated = {path.name for path in (root / "responses" / Path(trained_toy).name / "toy").iterdir()}
    assert generated == {"clean", "diffusion-600", "pad-0"}
    passes = Store(str(root)).find("studies/small").counts["passes"]
    num_trials, repeats = 4, 2
    assert passes == {"done": 3, "found": 0, "apart": num_trials * repeats * 2}


def test_its_page_names_the_best_and_the_views_without_training(root: Path):
    page = (root / "studies" / "small" / "index.html").read_text()
    assert "Content-Security-Policy" in page
    assert "no pair is left" in page
    assert re.search(r"CPU-hours held for engines and training workers: \d", page)
    for view in ("diffusion-600", "pad-0"):
        assert (root / "scores" / "toy-test-deployment-2024-10" / f"toy-base+{view}" / "record.json").exists()


def test_the_best_policy_is_exported_and_its_command_finds_the_same_policy(root: Path):
    best = root / "studies" / "small" / "best"
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in best.iterdir()}
    page = (root / "studies" / "small" / "index.html").read_text()
    (words,) = re.findall(r"python jobs/full\.py [^<]+", page)
    before = policies(root)
    words = words.replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&")
    again = run([sys.executable, str(JOBS / "full.py"), *shlex.split(words)[2:]])
    assert again.returncode == 0, again.stderr
    assert policies(root) == before
    assert not re.search(r"^(train|reference|pair)", again.stderr, re.MULTILINE), again.stderr


def run_here(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Runs the job in this process, on its cluster; its exit code, and the last line of standard error."""
    monkeypatch.setattr(sys, "argv", words[1:])
    capsys.readouterr()
    code = 0
    try:
        cli.run(sweep.main, sweep.PRESETS, "test")
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code, capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("beta", ["0.1", pytest.param("0.2", marks=pytest.mark.slow)])
def test_another_study_generates_nothing_but_the_answers_of_what_it_trains_though_a_first_run_failed(
    root: Path,
    trained_toy: str,
    beta: str,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    training = root / "responses" / Path(trained_toy).name
    before, trained = {path: path.stat().st_mtime_ns for path in training.rglob("*")}, policies(root)
    name = f"other-{beta}"
    words = one_more_point(root, trained_toy, name, beta)
    with in_the_way(root / "policies"):
        code, last = run_here(words, monkeypatch, capsys)
    assert code == 2
    assert last.startswith(f"error: studies/{name}: 1 of 1 points failed, and are tried again by the same"), last
    code, last = run_here(words, monkeypatch, capsys)
    assert code == 0, last
    assert {path: path.stat().st_mtime_ns for path in training.rglob("*")} == before
    assert trained.items() <= policies(root).items(), "what another study trained is not trained again"
    assert len(policies(root)) - len(trained) == (beta == "0.2"), "the first study has trained 0.1 and 0.3"
    counts = Store(str(root)).find(f"studies/{name}").counts
    assert counts["num_failed"] == 0
    assert counts["passes"] == {"done": 0, "found": 2, "apart": 2}


@pytest.mark.slow
def test_an_interrupted_study_ends_in_one_line_and_the_same_command_finishes_it(root: Path, trained_toy: str):
    words = one_more_point(root, trained_toy, "interrupted", "0.4")
    interrupted = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in its background has interrupts ignored, by all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not trials_of(interrupted):
        assert interrupted.poll() is None, interrupted.communicate()[1]
        time.sleep(0.1)
    os.killpg(interrupted.pid, signal.SIGINT)
    _, told = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130, told
    assert told.endswith("interrupted: run the same command again to continue\n"), told
    assert not (root / "studies" / "interrupted" / "record.json").exists()
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert Store(str(root)).find("studies/interrupted").counts["num_failed"] == 0


def one_more_point(root: Path, model: str, name: str, beta: str) -> list[str]:
    """The command of a study of a single point: the view that the first study has generated, and one seed."""
    return command(root, model, name, "--seeds", "0", "--space.betas", beta, "--no-test-time")


@contextlib.contextmanager
def in_the_way(directory: Path) -> Iterator[None]:
    """A file where a directory should be."""
    away = directory.with_name("away")
    directory.rename(away)
    directory.touch()
    try:
        yield
    finally:
        directory.unlink()
        away.rename(directory)


def test_what_another_recipe_made_is_told_before_anything_runs(
    root: Path,
    trained_toy: str,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    before = policies(root)
    other = ("--generate.decoding.max-new-tokens", "5", "--no-test-time")
    code, last = run_here(command(root, trained_toy, "mismatch", *other), monkeypatch, capsys)
    assert code == 2
    assert re.match(r"error: responses/.*: made by another recipe", last), last
    assert policies(root) == before


def test_a_defect_in_a_trial_is_told_by_the_line_that_names_it():
    traceback = """ray.exceptions.RayTaskError(ValueError): ray.data.exceptions.SystemException

ray.exceptions.RayTaskError(ValueError): ray::MapWorker(MapBatches(Scorer)).submit() (pid=16145)
  File "reference.py", line 90, in __call__
ValueError: tokens and features do not match
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, configure `ray.data.DataContext.get_current()`."""
    assert line_of(traceback) == "ValueError: tokens and features do not match"
    assert line_of("killed") == "killed"


@pytest.mark.slow
def test_optuna_and_median_stopping_stay_in_the_space(root: Path, trained_toy: str):
    done = run(
        command(
            root, trained_toy, "proposed", "--seeds", "0", "--space.betas", "0.1", "0.3",
            "--space.lora-ranks", "8", "16",
            "--search.method", "optuna", "--search.num-points", "3", "--search.scheduler", "median", "--no-test-time",
        )
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = Store(str(root)).find("studies/proposed").counts
    assert (counts["num_trials"], counts["num_failed"]) == (3, 0)
    sought = [row for row in rows(root, "proposed") if row["metric"] == "VQA accuracy"]
    assert {(row["beta"], row["lora_rank"]) for row in sought} <= {(b, r) for b in ("0.1", "0.3") for r in ("8", "16")}
    assert {row["num_pairs"] for row in sought} <= {"24", "48"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--train.num-workers", "12", "--train.per-device-batch-size", "2"],
            r"error: a training run: needs 12 CPU, and the cluster has \d+",
        ),
        (["--metric", "luck"], r"error: metric 'luck': toy-test-deployment-2024-10 has VQA accuracy, "),
        (["--models", "toy-1", "toy-2", "toy-3"], "error: models: one, or one for each of the 2 seeds, not 3"),
        (
            ["--search.scheduler", "asha", "--space.num-pairs", "10", "20"],
            "error: num_pairs: scheduler asha chooses it",
        ),
        (
            ["--models", "a/model", "b/model"],
            "error: models a/model and b/model: both have the name model",
        ),
        (["--seeds", "-1", "0"], "error: seed -1"),
        (["--max-gpus", "0"], "error: max_gpus 0: must be at least 1"),
        (["--max-gpus", "1"], "error: an engine and what feeds it: needs 2 CPU, and the cluster has 1"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    ray_cluster: None,
    tmp_path,
    trained_toy,
    words,
    line,
):
    code, last = run_here(command(tmp_path, trained_toy, "wrong", *words), monkeypatch, capsys)
    assert code == 2
    assert re.match(line, last), last
    assert not (tmp_path / "responses").exists()
    assert not (tmp_path / "studies").exists()
