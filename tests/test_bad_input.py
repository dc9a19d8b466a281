"""A user's mistake gives one line that names it, and loses nothing else."""

import json
import sys
from pathlib import Path

import pytest

from full import PRESETS, main
from seva_ray.runtime import cli as job


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str) -> str:
    """The one line that the main job prints before any model loads."""
    monkeypatch.setattr(sys, "argv", ["full.py", *words])
    with pytest.raises(SystemExit) as exit_:
        job.run(main, PRESETS, "test")
    assert exit_.value.code == 2
    *start, line = capsys.readouterr().err.strip().splitlines()
    assert all(said.startswith("full ") and ": root " in said for said in start), start
    assert len(start) <= 1, start
    return line


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


def test_a_noise_step_out_of_range(monkeypatch, capsys, root):
    line = error_of(monkeypatch, capsys, "--root", root, "--views", "diffusion-1000")
    assert line.startswith("error: ")
    assert "noise_step 1000" in line
    assert "0 to 999" in line


def test_the_clean_view_as_rejected(monkeypatch, capsys, root):
    assert "view clean" in error_of(monkeypatch, capsys, "--root", root, "--views", "clean")


def test_a_batch_that_workers_cannot_share(monkeypatch, capsys, root):
    line = error_of(monkeypatch, capsys, "--root", root, "--train.global-batch-size", "7")
    assert line == "error: global_batch_size 7: must be a multiple of per_device_batch_size 12"
    line = error_of(monkeypatch, capsys, "--root", root, "--train.num-workers", "5")
    assert line == "error: global_batch_size 24: must be a multiple of num_workers 5 x per_device_batch_size 12"


def test_a_model_directory_that_does_not_exist(monkeypatch, capsys, root):
    line = error_of(monkeypatch, capsys, "--root", root, "--model", "nowhere/llava")
    assert "no such directory, and no such repository in Hugging Face's cache; `hf download nowhere/llava` puts" in line
    assert "give a directory, or a repository's name such as llava-hf/" in error_of(
        monkeypatch, capsys, "--root", root, "--model", "nowhere"
    )


def test_a_policy_that_would_have_its_starting_models_name(monkeypatch, capsys, root, toy_model):
    name = Path(toy_model).name
    line = error_of(monkeypatch, capsys, "--root", root, "--model", toy_model, "--name", name)
    assert line == f"error: name {name}: this is the starting model's name; choose another name for the policy"
    assert "name toy-3" in error_of(monkeypatch, capsys, "--root", root, "--model", "toy-3", "--name", "toy-3")


def test_a_name_that_no_directory_can_have_is_refused_before_anything_is_written(monkeypatch, capsys, root):
    line = error_of(monkeypatch, capsys, "--root", root, "--name", "my run")
    assert line.startswith("error: artifact name 'policies/my run': must have only letters, digits and")
    assert not list(Path(root).rglob("*.parquet"))


def test_a_view_that_is_nearly_one_is_named_without_the_list_of_all(monkeypatch, capsys, root):
    line = error_of(monkeypatch, capsys, "--root", root, "--views", "difusion-300")
    assert line.startswith(
        "error: view 'difusion-300': there is no 'difusion'; perhaps you meant diffusion; jobs/gallery"
    )
    assert len(line) < 120
    assert "random_rotation[-max_degrees]" in error_of(monkeypatch, capsys, "--root", root, "--views", "strange")


def test_a_model_that_is_not_a_vision_language_model(monkeypatch, capsys, root, tmp_path):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    line = error_of(monkeypatch, capsys, "--root", root, "--model", str(tmp_path / "gpt"))
    assert "'gpt2' is not a vision-language model" in line


def test_a_root_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    line = error_of(monkeypatch, capsys, "--root", str(tmp_path / "file" / "runs"))
    assert str(tmp_path / "file") in line
    assert "not writable" in line


def test_a_source_file_that_is_not_there(monkeypatch, capsys, root, toy_model, tmp_path):
    words = ["source:table", "--source.path", str(tmp_path / "none.jsonl")]
    words = ["--name", "policy", *words]
    assert "none.jsonl" in error_of(monkeypatch, capsys, "--root", root, "--model", toy_model, *words)


def test_a_source_file_of_another_shape(monkeypatch, capsys, root, toy_model, tmp_path):
    (tmp_path / "mix.json").write_text('{"rows": []}')
    words = ["source:llava-json", "--source.path", str(tmp_path / "mix.json"), "--source.image-root", str(tmp_path)]
    words = ["--name", "policy", *words]
    assert "mix.json" in error_of(monkeypatch, capsys, "--root", root, "--model", toy_model, *words)


def test_more_workers_than_there_is_room_for_are_refused_before_a_toy_base_is_trained(
    monkeypatch, capsys, root, ray_cluster
):
    words = ["--root", root, "--benchmarks.toy-images", "0", "--train.num-workers", "3", "--train.global-batch-size"]
    monkeypatch.setattr(sys, "argv", ["full.py", *words, "36", "source:toy-world", "--source.num-images", "2"])
    with pytest.raises(SystemExit) as exit_:
        job.run(main, PRESETS, "test")
    assert exit_.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: no room for a training worker: the job needs 3 of them, each with 1 CPU, but ")
    assert line.endswith("only 2. A larger machine would help, and so would a lower --train.num-workers.")
    assert not Path(root, "models").exists()
