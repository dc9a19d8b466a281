"""Artifacts that were made by the first version are found complete by every later one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import FingerprintMismatch
from seva_ray.core.fingerprints import FIRST, execution, identity
from seva_ray.engines.config import Generate
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
    """The filters of the first version, under the name of that time, and with new fields."""

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


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: ClassVar[str] = "Inner"
    rate: float = 0.5
    num_workers: int = execution(1)


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: ClassVar[str] = "Outer"
    inner: Inner = Inner()
    names: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    rate: float = 1.0


@pytest.mark.parametrize(
    "same", [{"inner": Inner(num_workers=9)}, {"names": []}, {"counts": {}}, {"rate": 1}, {"inner": Inner(rate=0.5)}]
)
def test_what_means_the_default_makes_the_recipe_of_the_default(same: dict[str, Any]):
    assert identity(Outer(**same)) == {"kind": "Outer"}
    assert identity(Outer(inner=Inner(rate=1.0))) == {"kind": "Outer", "inner": {"kind": "Inner", "rate": 1.0}}


def test_more_engines_for_regeneration_leave_the_responses_good():
    usual = Generate()
    assert identity(replace(usual, regeneration=replace(usual.regeneration, batch_size=2))) == identity(usual)


@dataclass(frozen=True, kw_only=True)
class Earlier:
    kind: ClassVar[str] = "Later"
    size: int


@dataclass(frozen=True, kw_only=True)
class Later:
    """The same class in a later version."""

    kind: ClassVar[str] = "Later"
    size: int = 5


def test_a_field_may_get_a_default_later(tmp_path: Path):
    store = Store(str(tmp_path))
    made = store.open("x/deep", config={"parts": [Earlier(size=5)]}).begin().finish({})
    again = store.open("x/deep", config={"parts": [Later()]})
    assert (again.complete, again.fingerprint) == (True, made.fingerprint)
    with pytest.raises(FingerprintMismatch):
        store.open("x/deep", config={"parts": [Later(size=6)]})


def test_every_class_of_the_first_version_has_its_kind():
    golden = json.loads(GOLDEN.read_text())
    kinds = set(re.findall(r'"kind": "(\w+)"', json.dumps(golden)))
    assert kinds == set(FIRST)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        made = {artifact.name: (artifact.recipe, artifact.fingerprint) for artifact in opened(Store(root))}
    GOLDEN.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n")
