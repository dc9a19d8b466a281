"""The main job up to a stage: what it makes, what it leaves, and what it says of it."""

import json
import sys
from pathlib import Path

import pytest

import full
from seva_ray.core.artifacts import Store
from seva_ray.runtime import cli
from seva_ray.sources import ToyWorld


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, ray_cluster: None, toy_model: str, tmp_path):
    """Runs the main job on five scenes with transformers; what it prints, and what it says on standard error."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "generate: {engine: {kind: transformers-engine}, decoding: {max_new_tokens: 8}, system: ''}\n"
        f"source: {{num_images: 5}}\nviews: [diffusion-900]\ncontrols: [control-batch]\nmodel: {toy_model}\n"
    )

    def run(*words: str) -> tuple[list[str], list[str]]:
        argv = ["full.py", "--config", str(file), "--root", str(tmp_path / "runs"), "--name", "mine", *words]
        monkeypatch.setattr(sys, "argv", argv)
        capfd.readouterr()
        cli.run(full.main, full.PRESETS, "test")
        shown = capfd.readouterr()
        return shown.out.splitlines(), [line for line in shown.err.splitlines() if not line.startswith("generate: ")]

    return run


def test_a_run_stops_after_a_stage_says_where_it_lies_and_goes_on_from_there(said, tmp_path, toy_model):
    root, model = tmp_path / "runs", Path(toy_model).name
    printed, lines = said("--until", "prepare", "--model", "not-here-yet")
    assert printed == ["mine, prepare:", f"  {root}/prompts/toy"]
    assert lines[0] == f"full mine: root {root}"
    assert not (root / "responses").exists()

    printed, _ = said("--until", "generate")
    views = ("clean", "diffusion-900", "control-batch")
    assert printed == ["mine, generate:", *(f"  {root}/responses/{model}/toy/{view}" for view in views)]
    assert not (root / "pairs").exists()
    assert Store(str(root)).names("prompts") == ["prompts/toy"], "benchmarks are not needed yet"

    printed, lines = said("--until", "pair")
    places = [f"  {root}/pairs/{model}/toy/{view}" for view in ("diffusion-900", "control-batch")]
    assert printed == ["mine, pair:", *places]
    assert not any(line.startswith("reused") for line in lines), "pairs are new"
    assert all((Path(place.strip()) / "record.json").exists() for place in places)

    printed, lines = said("--until", "pair")
    assert printed == ["mine, pair:", *places]
    assert lines == [f"full mine: root {root}", "reused: prompts, 3 responses, 2 pairs"]
    assert not (root / "policies").exists()


def test_a_run_against_ground_truth_answers_only_in_its_own_view_and_stores_its_pairs_apart(said, tmp_path, toy_model):
    root, model = tmp_path / "runs", Path(toy_model).name
    printed, lines = said("--until", "pair", "--chosen", "ground-truth", "--controls")
    (pairs,) = printed[1:]
    assert pairs == f"  {root}/pairs/{model}/toy/ground-truth-vs-diffusion-900"
    assert {path.name for path in (root / "responses" / model / "toy").iterdir()} == {"ground-truth", "diffusion-900"}
    assert any("prompts have an answer of the data set" in line for line in lines)
    rows = json.loads(Path(pairs.strip(), "pairs.json").read_text())
    assert {row["chosen"] for row in rows} <= set(ToyWorld(num_images=5).answers().values())
