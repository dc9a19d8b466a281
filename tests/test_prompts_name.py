"""The name of a prompt set follows from its source, so that the first command with one's own data works."""

import sys
from pathlib import Path

import pytest

import full
from presets import prompts_of
from seva_ray.core.artifacts import Store
from seva_ray.runtime import cli
from seva_ray.sources import Folder, LlavaJson, ToyWorld


def test_presets_share_prompts_and_any_other_source_has_the_jobs_own_name():
    llava = LlavaJson(path="a.json", image_root="images")
    assert prompts_of("", ToyWorld(num_images=3), "mine") == "toy"
    assert prompts_of("", llava, "mine") == "llava-mix"
    assert prompts_of("", Folder(path="photos"), "mine") == "mine"
    assert prompts_of("toy", Folder(path="photos"), "mine") == "toy"


def test_the_main_job_takes_a_folder_also_in_a_root_with_the_prompts_of_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"an image, which prepare does not read")
    root = str(tmp_path / "runs")

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["full.py", "--root", root, "--until", "prepare", *words])
        cli.run(full.main, full.PRESETS, "test")

    run("source:toy-world", "--source.num-images", "1")
    run("--name", "mine", "source:folder", "--source.path", str(tmp_path / "photos"))
    assert Store(root).names("prompts") == ["prompts/mine", "prompts/toy"]
