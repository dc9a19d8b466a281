"""Exported pairs are read by the real loaders of LLaMA-Factory and ms-swift, in an environment of their own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from seva_ray.stages.export_pairs import ExportPairs, export_pairs
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


def read_by(script: str, *words: str, cwd: Path) -> list[dict[str, Any]]:
    command = [str(INSTALLED), str(ROOT / "tests" / "clients" / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(exported: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((exported / "seva.json").read_text())
    return rows


def test_llama_factory_reads_both_answers_and_an_image_that_is_there(exported: Path, tmp_path: Path):
    found = read_by("llama_factory_rows.py", str(exported), cwd=tmp_path)
    assert len(found) == len(ours(exported))
    for row, own in zip(found, ours(exported), strict=True):
        assert [turn["content"] for turn in row["_prompt"]] == [f"<image>{own['question']}"]
        assert [turn["content"] for turn in row["_response"]] == [own["chosen"], own["reject"]]
        (image,) = row["_images"]
        assert Image.open(image).size == Image.open(exported / own["image_id"]).size


def test_ms_swift_reads_both_answers_and_an_image_that_is_there(exported: Path, tmp_path: Path):
    found = read_by("swift_rows.py", str(exported / "swift.jsonl"), cwd=tmp_path)
    assert len(found) == len(ours(exported))
    for row, own in zip(found, ours(exported), strict=True):
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert [turn["content"] for turn in row["messages"]] == [f"<image>{own['question']}", own["chosen"]]
        assert row["rejected_response"] == own["reject"]
        (image,) = row["images"]
        assert (exported / image["path"]).is_file()
