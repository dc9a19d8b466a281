"""The public API: its names, and docs/API.md, whose cells run as they are, there and as the notebook docs/api.ipynb.

python -m tests.test_api writes the notebook anew from the page.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from seva_ray import api

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "API.md").read_text()
CELLS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MODEL = 'MODEL = "runs/models/toy-1/model"  # from `make demo`; or a model of yours\n'


def notebook() -> str:
    """The page as a notebook: its texts and its cells, the first of which names the model."""
    cells: list[dict[str, Any]] = []
    for place, part in enumerate(re.split(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)):
        text = part.strip()
        if place % 2:
            source = text.replace("\n\n", f"\n\n{MODEL}", 1) if place == 1 else text
            cells.append(
                {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
            )
        elif text:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": text})
    for number, cell in enumerate(cells):
        cell |= {"id": f"cell-{number}", "source": cell["source"].splitlines(keepends=True)}
        cells[number] = dict(sorted(cell.items()))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    made = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def test_the_notebook_has_the_texts_and_the_ten_cells_of_the_page():
    assert (DOCS / "api.ipynb").read_text() == notebook(), "python -m tests.test_api writes it"
    cells = [cell for cell in json.loads(notebook())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert [source.replace(MODEL, "") for source in sources] == [cell.strip() for cell in CELLS]
    assert MODEL in sources[0]


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
    names: dict[str, object] = {}
    for cell in json.loads((DOCS / "api.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace(MODEL, f"MODEL = {toy_model!r}\n")
            exec(compile(source, "docs/api.ipynb", "exec"), names)
    assert (tmp_path / "exported-pairs" / "README.md").exists()
    assert api.Store("runs").find("policies/mine").counts["num_steps"] == 2


if __name__ == "__main__":
    (DOCS / "api.ipynb").write_text(notebook())
