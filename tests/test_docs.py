"""The documentation site (`make docs`) has every page, and the links between pages hold in the repository too."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
(LINKED,) = re.findall(r"\$\(addprefix \$\(CURDIR\)/,(.*?)\) build/pages\n", (ROOT / "Makefile").read_text())
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "cluster" / "README.md"]


def entries(nav: Any) -> list[str]:
    """The files that a part of `nav` names."""
    if isinstance(nav, str):
        return [nav]
    return [name for part in (nav.values() if isinstance(nav, dict) else nav) for name in entries(part)]


def test_the_site_names_every_page_once():
    assert sorted(entries(SITE["nav"])) == sorted(str(page.relative_to(ROOT)) for page in PAGES)


def test_the_site_has_the_files_that_its_pages_lie_in():
    tops = {name.split("/")[0] for name in [*entries(SITE["nav"]), *SITE["extra_css"]]}
    assert tops - {"cluster"} <= set(LINKED.split())  # of cluster/, the one page is linked by itself
    assert [name for name in [*LINKED.split(), *SITE["extra_css"]] if not (ROOT / name).exists()] == []


def test_the_pages_load_nothing_from_other_machines():
    assert SITE["theme"]["font"] is False
    assert [name for key in ("extra_css", "extra_javascript") for name in SITE.get(key, []) if "//" in name] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_only_to_what_is_there(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    files = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert [file for file in files if not (page.parent / file).exists()] == []
