"""The public API: its names, and docs/API.md, whose cells run as they are."""

import re
from pathlib import Path

import pytest

from seva_ray import api

CELLS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs" / "API.md").read_text(), re.DOTALL)


def test_every_public_name_is_there_and_the_document_uses_no_other():
    assert [name for name in api.__all__ if not hasattr(api, name)] == []
    assert sorted(api.__all__) == api.__all__
    used = set(re.findall(r"\bapi\.(\w+)", "\n".join(CELLS) + (api.__doc__ or "")))
    assert used <= set(api.__all__)
    assert {"prepare", "generate", "pair", "train", "evaluate"} <= used
    assert len(CELLS) == 10


def test_every_cell_is_python():
    for cell in CELLS:
        compile(cell, "docs/API.md", "exec")


@pytest.mark.slow
def test_the_cells_run_as_they_are(ray_cluster: None, toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": toy_model}
    for cell in CELLS:
        exec(compile(cell, "docs/API.md", "exec"), names)
    assert (tmp_path / "exported-pairs" / "README.md").exists()
    assert api.Store("runs").find("policies/mine").counts["num_steps"] == 2
