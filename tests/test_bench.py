"""Benchmarks: what becomes of the figures. The figures themselves are no test."""

import ast
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.figures import Figure, keep, table
from bench.job import family, kind_of, stages_of
from bench.paced import steady_rate
from bench.start import cpu_s, cpu_s_to_first_line

ROOT = Path(__file__).parent.parent
FIGURE = Figure(figure="speed", ratio=1.0, target=1.0, better="higher", rival="itself", command="python bench.py")


@pytest.mark.parametrize(
    ("better", "ratio", "met"),
    [("higher", 0.99, False), ("higher", 1.0, True), ("lower", 1.0, True), ("lower", 1.01, False)],
)
def test_a_target_is_met_from_the_better_side(better, ratio, met):
    figure = replace(FIGURE, better=better, ratio=ratio)
    assert figure.met == met
    assert ("NO" in table([figure])) != met


def test_a_part_that_is_measured_again_leaves_the_other_results_as_they_were(tmp_path):
    path = tmp_path / "bench" / "figures.json"
    other = replace(FIGURE, figure="memory", ratio=3.0)
    keep(path, [FIGURE, other])
    again = replace(FIGURE, ratio=2.0)
    assert keep(path, [again]) == [again, other]
    assert [(item["figure"], item["ratio"]) for item in json.loads(path.read_text())] == [
        ("speed", 2.0),
        ("memory", 3.0),
    ]
    assert set(json.loads(path.read_text())[0]) == {"figure", "ratio", "target", "better", "rival", "command"}


def test_what_benchmarks_prepare_has_a_name_in_recipes():
    made = [
        node
        for file in ROOT.glob("bench/*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and any(getattr(item, "name", "") == "prompts" for item in node.body)
    ]
    assert {node.name for node in made} >= {"TinyPrompts", "Asked"}
    for node in made:
        assert "kind" in {ast.unparse(item.target) for item in node.body if isinstance(item, ast.AnnAssign)}, node.name


def test_a_steady_rate_leaves_out_how_it_began_and_ended():
    slow_start = [(10.0, 5), (20.0, 5)]
    steady = [(30.0 + 2 * number, 5) for number in range(12)]
    slow_end = [(90.0, 5), (99.0, 5)]
    assert steady_rate([*slow_end, *steady, *slow_start]) == 2.5


def test_the_time_to_the_first_line_leaves_out_what_comes_after_it():
    code = "import sys; print('first', file=sys.stderr, flush=True); sum(range(10**8))"
    command = [sys.executable, "-c", code]
    assert cpu_s_to_first_line(command) < cpu_s(command, 1) / 2


def test_a_process_is_of_one_kind_whatever_it_was_before():
    worker = "python -u ray/_private/workers/default_worker.py --node-ip-address=127.0.0.1"
    engine = "ray::MapWorker(MapBatches(UnitWorker)).__init__"
    assert kind_of([worker, "ray::IDLE", engine]) == "engine"
    assert kind_of([worker, "ray::IDLE"]) == "processes that Ray started ahead"
    assert kind_of(["ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ray"]) == "the Ray cluster"


def test_a_stage_lasts_from_the_last_line_of_the_stage_before_it_and_may_come_twice():
    lines = [
        (1.0, "full toy: root runs"),
        (2.0, "prepare toy: 3 prompts"),
        (20.0, "generate: waiting for an engine, 15 s so far"),
        (25.0, "generate: 1/4 units"),
        (30.0, "generate: 4/4 units"),
        (31.0, "reference toy: 12 shards to do"),
        (40.0, "train: step 2/2"),
        (60.0, "generate: 2/2 units"),
    ]
    expected = {"full": 1.0, "prepare": 1.0, "generate": 28.0, "train": 10.0, "generate, time 2": 20.0}
    assert stages_of(lines) == expected


def test_the_family_of_a_process_is_all_that_it_and_its_children_have_started():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], check=True)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while len(found := family(parent.pid)) < 2:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert len(found) == 2
        assert all(seconds >= 0 for _, seconds in found.values())
    finally:
        parent.communicate(b"\n")
