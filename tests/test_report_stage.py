"""The page about a policy is drawn when something that it shows has changed, and only then."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

import full
from seva_ray.benchmarks import Benchmarks
from seva_ray.core.artifacts import Store
from seva_ray.sources import AnySource, Folder, ToyWorld
from seva_ray.stages import report as stage
from seva_ray.stages.report import report
from seva_ray.stages.report_inputs import Report
from seva_ray.stages.run_list import list_runs
from tests.finished_run import finish

SMALL = Report(num_samples=1, num_flips=1)


@pytest.fixture
def store(tmp_path: Path, toy_model: str) -> Store:
    """A finished run with its page."""
    return drawn(tmp_path, toy_model, ToyWorld(num_images=2))


def drawn(root: Path, model_directory: str, source: AnySource) -> Store:
    benchmarks = Benchmarks(toy_images=3, toy_cameras=("clean",))
    config = dataclasses.replace(full.PRESETS["toy"], root=str(root), source=source, benchmarks=benchmarks)
    store = finish(config, model_directory)
    assert draws(store)
    return store


def draws(store: Store, config: Report = SMALL) -> bool:
    """Whether a run draws the page. An old page gets a time long ago first."""
    page = Path(store.root, "reports", "toy", "index.html")
    if page.exists():
        os.utime(page, (0, 0))
    assert report(config, store, "toy", command="python jobs/full.py", began=0.0) == str(page)
    return page.stat().st_mtime > 0


def test_a_page_that_shows_the_same_already_stays_and_the_line_says_so(store: Store, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    page = f"report: {store.root}/reports/toy/index.html"
    assert not draws(store)
    assert capsys.readouterr().err == f"{page} (unchanged)\n"
    Path(store.root, "reports", "toy", "index.html").unlink()
    assert draws(store)
    assert capsys.readouterr().err == f"{page}\n"
    assert not draws(store)


def test_other_settings_another_score_other_code_and_other_libraries_draw_it_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = dataclasses.replace(SMALL, num_samples=2)
    assert draws(store, other)
    assert not draws(store, other)
    record = Path(store.root, "scores", "toy-test-clean-2024-3", "toy", "record.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": 5.0}))
    assert draws(store, other)
    monkeypatch.setattr(stage, "versions", lambda: {"torch": "9"})
    assert draws(store, other)
    monkeypatch.setattr(stage, "PACKAGE", tmp_path)
    assert draws(store, other)
    for name in ("page.html.j2", "report.py"):
        (tmp_path / name).write_text("other")
        assert draws(store, other), name
        assert not draws(store, other)


def test_a_page_on_which_a_picture_is_missing_is_drawn_again(
    tmp_path: Path, toy_model: str, capsys: pytest.CaptureFixture
):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (48, 48)).save(photos / "a.png")
    store = drawn(tmp_path / "runs", toy_model, Folder(path=str(photos)))
    assert not draws(store)
    (photos / "a.png").rename(photos / "b.png")
    two = dataclasses.replace(SMALL, num_samples=2)
    capsys.readouterr()
    assert draws(store, two)
    assert "is left out" in capsys.readouterr().err
    assert draws(store, two)
    (photos / "b.png").rename(photos / "a.png")
    assert draws(store, two)
    assert not draws(store, two)


def test_the_page_links_to_what_lies_beside_it_and_to_nothing_that_does_not(store: Store):
    page = Path(store.root, "reports", "toy", "index.html")
    links = re.findall(r'<a href="([^"#]+)">', page.read_text())
    assert len(links) >= 2
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert not any("tensorboard" in link or link.endswith("/index.html") for link in links), "there are none here"
    list_runs(store)
    page.unlink()
    assert draws(store)
    assert "../../index.html" in re.findall(r'<a href="([^"#]+)">', page.read_text())
