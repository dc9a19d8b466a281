"""The documents: short where they must be, and without a link that leads nowhere."""

import importlib
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml

from seva_ray.runtime.fields import kebab
from seva_ray.sources import AnySource

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / name for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_or_heading_that_is_there(document: Path):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings}, target


def test_the_readme_names_every_source():
    sources = {f"`source:{kebab(kind.__name__)}`" for kind in get_args(AnySource)}
    assert {name for name in sources if name not in README} == set()


def test_the_readmes_commands_with_ones_own_images_fit_together():
    section = README.split("## Your own images")[1].split("```")[1]
    full, *others = section.strip().splitlines()
    name = re.search(r"--name (\S+)", full)
    preset = re.search(r"full\.py (\S+)", full)
    assert name
    assert preset
    (view,) = importlib.import_module("full").PRESETS[preset.group(1)].views
    model = re.search(r"--model \S*/(\S+)", full)
    assert model
    for command in others:
        assert f"--pairs {model.group(1)}/{name.group(1)}/{view} " in command


def test_the_citation_has_what_citation_tools_need():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["preferred-citation"]["title"] == "Self-Supervised Visual Preference Alignment"
