"""prepare: whose contents are in the recipe, and what is left of a try that failed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from seva_ray.artifacts import Store
from seva_ray.errors import FingerprintMismatch
from seva_ray.sources import Table
from seva_ray.stages.prepare import Prepare, prepare

DIGEST_OF_OLD = "74508370e643cda1"
"""What the version that named a directory's files by their sizes wrote for `table_in` of one red question."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


def table_in(folder: Path, questions: Sequence[str] = ("Is it red?",)) -> Table:
    """A directory with one file of questions."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": question, "image": "a.png"} for question in questions]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Table(path=str(folder), image_root=str(folder))


# The recipe


def test_a_directory_whose_question_was_edited_is_another_recipe(store: Store, tmp_path: Path):
    prepare(Prepare(), store, "x", table_in(tmp_path / "data"))
    with pytest.raises(FingerprintMismatch, match=r"prompts/x: made by another recipe \(config\.contents"):
        prepare(Prepare(), store, "x", table_in(tmp_path / "data", ["Is it fox?"]))


def test_prompts_of_an_older_version_are_good_while_names_and_sizes_are_the_same(store: Store, tmp_path: Path):
    source = table_in(tmp_path / "data")
    made = prepare(Prepare(), store, "x", source)
    for name in ("recipe.json", "record.json"):
        file = Path(made.path(name))
        file.write_text(file.read_text().replace(made.recipe["config"]["contents"], DIGEST_OF_OLD))
    again = prepare(Prepare(), store, "x", source)
    assert again.complete
    assert again.recipe["config"]["contents"] == DIGEST_OF_OLD
    with pytest.raises(FingerprintMismatch, match=r"config\.contents"):
        prepare(Prepare(), store, "x", table_in(tmp_path / "data", ["Is it reddish?"]))


def test_contents_of_a_directory_that_moved_are_the_same(store: Store, tmp_path: Path):
    made = prepare(Prepare(), store, "x", table_in(tmp_path / "data"))
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = Table(path=str(tmp_path / "moved"), image_root=str(tmp_path / "moved"))
    again = prepare(Prepare(), store, "y", moved)
    assert again.recipe["config"]["contents"] == made.recipe["config"]["contents"]
