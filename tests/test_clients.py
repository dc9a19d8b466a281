"""Exported pairs are read by the real loaders of LLaMA-Factory and ms-swift, in an environment of their own, and their
own trainers take two steps of DPO on them."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seva_ray.stages.export import make_readable
from seva_ray.stages.export_pairs import ExportPairs, export_pairs
from tests.conftest import random_model
from tests.own_pairs import own_pairs

ROOT = Path(__file__).parent.parent
INSTALLED = ROOT / ".venv-clients" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED.exists(), reason="the clients are not installed: make clients"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    store, pairs = own_pairs(folder / "own")
    return Path(export_pairs(ExportPairs(to=str(folder / "out")), store, pairs.name))


def said_by(script: str, *words: str, cwd: Path) -> Any:
    command = [str(INSTALLED), str(ROOT / "tests" / "clients" / script), *words]
    known = os.environ | ({"ROOT_IMAGE_DIR": words[0]} if script == "swift_steps.py" else {})
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600, env=known)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def ours(exported: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((exported / "seva.json").read_text())
    return rows


def test_llama_factory_reads_both_answers_and_an_image_that_is_there(exported: Path, tmp_path: Path):
    found = said_by("llama_factory_rows.py", str(exported), cwd=tmp_path)
    assert len(found) == len(ours(exported))
    for row, own in zip(found, ours(exported), strict=True):
        assert [turn["content"] for turn in row["_prompt"]] == [f"<image>{own['question']}"]
        assert [turn["content"] for turn in row["_response"]] == [own["chosen"], own["reject"]]
        (image,) = row["_images"]
        assert Image.open(image).size == Image.open(exported / own["image_id"]).size


def test_ms_swift_reads_both_answers_and_an_image_that_is_there(exported: Path, tmp_path: Path):
    found = said_by("swift_rows.py", str(exported / "swift.jsonl"), cwd=tmp_path)
    assert len(found) == len(ours(exported))
    for row, own in zip(found, ours(exported), strict=True):
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert [turn["content"] for turn in row["messages"]] == [f"<image>{own['question']}", own["chosen"]]
        assert row["rejected_response"] == own["reject"]
        (image,) = row["images"]
        assert (exported / image["path"]).is_file()


@pytest.mark.parametrize("script", ["llama_factory_steps.py", "swift_steps.py"])
def test_their_own_trainers_take_two_steps_on_both_answers_and_the_image(script: str, exported: Path, tmp_path: Path):
    """With transformers 4.57, which reads the files of an exported policy and of a model of the same form."""
    model = Path(random_model(tmp_path / "model", seed=5))
    make_readable(model)
    found = said_by(script, str(exported), str(model), str(tmp_path / "trained"), cwd=tmp_path)
    first, second = found["losses"]
    assert first == pytest.approx(math.log(2), abs=1e-4), "the policy is still its own reference"
    assert second < first
    chosen, rejected = found["texts"][:2], found["texts"][2:]
    assert all("what color is the ring ?" in text for text in found["texts"])
    assert all("yes there is" in text for text in chosen)
    assert len(rejected) == 2
    assert not any("yes there is" in text for text in rejected), rejected
    assert found["pixels"] == [4, 3, 48, 48], "the image of each answer"
