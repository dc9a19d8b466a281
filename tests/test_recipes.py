"""Artifacts that were made by the first version are found complete by every later one."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.fingerprints import FIRST, execution, identity
from seva_ray.pairs import filters
from tests.recipes import opened

GOLDEN = Path(__file__).parent / "golden_recipes.json"
"""Recipes and fingerprints as commit 9fd8133 made them, by `python -m tests.test_recipes`. Never write them anew."""


def test_every_artifact_of_the_first_version_is_found_complete_and_keeps_its_fingerprint(tmp_path: Path):
    golden = json.loads(GOLDEN.read_text())
    for name, (recipe, _) in golden.items():
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "recipe.json").write_text(json.dumps(recipe))
        (directory / "record.json").write_text(json.dumps({"recipe": recipe, "counts": {}}))
    found = [artifact for artifact in opened(Store(str(tmp_path))) if artifact.name in golden]  # others are newer
    assert {artifact.name for artifact in found} == golden.keys()
    assert [artifact.name for artifact in found if not artifact.complete] == []
    assert {artifact.name: artifact.fingerprint for artifact in found} == {
        name: fingerprint for name, (_, fingerprint) in golden.items()
    }


def test_scores_of_the_first_version_are_found_where_the_benchmark_has_moved(tmp_path: Path):
    for name, (recipe, _) in json.loads(GOLDEN.read_text()).items():
        (tmp_path / name).mkdir(parents=True)
        if name.startswith("scores/"):
            recipe["config"] = json.loads(json.dumps(recipe["config"]).replace('"/data/', '"/before/'))
        (tmp_path / name / "recipe.json").write_text(json.dumps(recipe))
        (tmp_path / name / "record.json").write_text(json.dumps({"recipe": recipe, "counts": {}}))
    found = [artifact for artifact in opened(Store(str(tmp_path))) if artifact.name.startswith("scores/")]
    assert all(artifact.complete for artifact in found)
    assert sum("/before/" in json.dumps(artifact.recipe) for artifact in found) == 16


@dataclass(frozen=True, kw_only=True)
class Filters:
    """As the first version had it, under its class's name of that time, and with more."""

    kind: ClassVar[str] = "Filters"
    repetition: int | None = None
    shared_start: int | None = None
    """Is new, and changes nothing by default."""
    word_overlap: float | None = None
    edit_distance: int | None = execution(None)
    """No longer changes what is made."""


def test_a_new_field_is_in_a_recipe_only_where_it_differs_from_its_default():
    assert "shared_start" not in identity(Filters())
    assert identity(Filters(shared_start=3))["shared_start"] == 3
    assert identity(Filters())["repetition"] is None, "what the first version wrote is written still"


def test_a_field_that_is_gone_is_written_as_it_was_by_default():
    assert identity(Filters()) == identity(filters.Filters())
    assert identity(Filters()) != identity(filters.Filters(length_ratio=(0.5, 2.0)))


def test_a_recipe_names_a_part_by_its_kind_and_not_by_its_class():
    class Renamed(Filters):
        kind: ClassVar[str] = "Filters"

    assert identity(Renamed()) == identity(Filters())
    with pytest.raises(TypeError, match="Bare has no constant `kind`"):
        identity(type("Bare", (Filters,), {})())


def test_every_class_of_the_first_version_has_its_kind():
    golden = json.loads(GOLDEN.read_text())
    kinds = set(re.findall(r'"kind": "(\w+)"', json.dumps(golden)))
    assert kinds == set(FIRST)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        made = {artifact.name: (artifact.recipe, artifact.fingerprint) for artifact in opened(Store(root))}
    GOLDEN.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n")
