"""Artifacts that were made by the first version are found complete by every later one."""

import json
from pathlib import Path

from seva_ray.artifacts import Store
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
    found = list(opened(Store(str(tmp_path))))
    assert {artifact.name for artifact in found} == golden.keys()
    assert [artifact.name for artifact in found if not artifact.complete] == []
    assert {artifact.name: artifact.fingerprint for artifact in found} == {
        name: fingerprint for name, (_, fingerprint) in golden.items()
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        made = {artifact.name: (artifact.recipe, artifact.fingerprint) for artifact in opened(Store(root))}
    GOLDEN.write_text(json.dumps(made, indent=0, sort_keys=True) + "\n")
