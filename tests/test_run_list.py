"""The list of runs under a root, on the terminal and as a page."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import write_bytes
from seva_ray.runtime import cli
from seva_ray.scoring.intervals import Comparison
from seva_ray.stages.run_list import list_runs
from seva_ray.stages.score_files import write_comparisons

SCORE = Comparison(
    metric="accuracy", start=60.0, start_low=58.0, start_high=62.0, policy=63.0, policy_low=61.0, policy_high=65.0,
    difference=3.0, difference_low=1.0, difference_high=5.0, num_images=100,
)  # fmt: skip
HOSTILE = "<script>alert(1)</script>"


def trained(store: Store, name: str, finished: float, score: Comparison | None, start: str = "base") -> None:
    pairs = store.open("pairs/base/mine/moco", config={})
    pairs = pairs if pairs.complete else pairs.finish({})
    policy = store.open(f"policies/{name}", config={"name": name}, inputs=[pairs])
    policy = policy.finish({"num_pairs": 1234, "num_steps": 9, "start": {"name": start}})
    record = json.loads(Path(policy.path("record.json")).read_text()) | {"finished": finished}
    write_bytes(policy.path("record.json"), json.dumps(record).encode())
    if score is not None:
        scores = store.open(f"scores/gqa/{name}", config={"name": name})
        write_comparisons(scores, [score, replace(score, metric="another")])
        scores.finish({})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "runs"))
    trained(store, "older", 1_700_000_000, SCORE)
    unclear = replace(SCORE, policy=61.0, difference=1.0, difference_low=-1.0)
    trained(store, "newer", 1_700_100_000, unclear, start=HOSTILE)
    trained(store, "unscored", 1_600_000_000, None)
    write_bytes(store.uri("reports/older/index.html"), b"a page")
    write_bytes(store.uri("studies/betas/index.html"), b"a page")
    write_bytes(store.uri("rounds/toy/index.html"), b"a page")
    return store


def test_every_policy_is_listed_with_its_headline_the_newest_first(store: Store):
    lines, _ = list_runs(store)
    assert lines == [
        f"newer, aligned from {HOSTILE} on 1,234 pairs, 2023-11-16 02:00 UTC:",
        "  accuracy on gqa: 60.0 -> 61.0, +1.0 [-1.0, +5.0]: not distinguishable from no change",
        "older, aligned from base on 1,234 pairs, 2023-11-14 22:13 UTC:",
        "  accuracy on gqa: 60.0 -> 63.0, +3.0 [+1.0, +5.0]",
        "unscored, aligned from base on 1,234 pairs, 2020-09-13 12:26 UTC:",
        "  not evaluated",
    ]


def test_the_page_compares_the_runs_and_links_only_to_pages_that_are_there(store: Store):
    _, uri = list_runs(store)
    html = Path(uri).read_text()
    assert uri == f"{store.root}/index.html"
    assert '<a href="reports/older/index.html">older</a>' in html
    assert "reports/newer" not in html
    assert '<a href="studies/betas/index.html">betas</a>' in html
    assert '<a href="rounds/toy/index.html">toy</a>' in html
    runs, scores = html[html.index('id="runs"') : html.index('id="scores"')], html[html.index('id="scores"') :]
    assert [runs.index(name) for name in (">newer<", ">older<", ">unscored<")] == sorted(
        runs.index(name) for name in (">newer<", ">older<", ">unscored<")
    )
    assert scores.index(">older<") < scores.index(">newer<"), "the larger difference comes first"
    assert scores.count('class="clear"') == 1
    assert HOSTILE not in html


def test_a_damaged_policy_is_a_line_and_hides_no_other(store: Store):
    policy = store.find("policies/older")
    Path(policy.path("record.json")).write_text("{cut")
    lines, uri = list_runs(store)
    assert sum(line.startswith("newer, ") for line in lines) == 1
    assert lines[-1].startswith("policies/older: cannot be read (")
    assert "policies/older: cannot be read (" in Path(uri).read_text()


def test_an_empty_root_and_a_metric_without_a_value_have_a_page_too(tmp_path: Path):
    lines, uri = list_runs(Store(str(tmp_path / "empty")))
    assert lines == []
    assert "No policy was trained here yet." in Path(uri).read_text()
    nothing = Store(str(tmp_path / "nothing"))
    names = ("start", "policy", "difference", "difference_low", "difference_high")
    values: dict[str, Any] = dict.fromkeys(names, math.nan)
    trained(nothing, "mine", 1_700_000_000, replace(SCORE, **values))
    assert "nan" not in Path(list_runs(nothing)[1]).read_text().replace("nowrap", "")


def test_a_root_without_runs_says_so_and_one_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import importlib

    job = importlib.import_module("list")
    monkeypatch.setattr(sys, "argv", ["list.py", "--root", str(tmp_path / "rnus")])
    with pytest.raises(SystemExit):
        cli.run(job.main, job.PRESETS, "test")
    assert f"error: root {tmp_path}/rnus: there is no such directory" in capsys.readouterr().err
    assert not (tmp_path / "rnus").exists()
    (tmp_path / "rnus").mkdir()
    cli.run(job.main, job.PRESETS, "test")
    assert capsys.readouterr().out.splitlines()[-2] == f"no policy was trained under {tmp_path}/rnus yet"


def test_the_job_prints_the_lines_and_where_the_page_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import importlib

    job = importlib.import_module("list")
    monkeypatch.setattr(sys, "argv", ["list.py", "--root", store.root])
    cli.run(job.main, job.PRESETS, "test")
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{store.root}/index.html"
    assert len(printed) == 7
