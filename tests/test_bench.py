"""Benchmarks: what becomes of the figures. The figures themselves are no test."""

import json
import sys
from dataclasses import replace

import pytest

from bench.figures import Figure, keep, table
from bench.paced import steady_rate
from bench.start import cpu_s, cpu_s_to_first_line

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


def test_a_steady_rate_leaves_out_how_it_began_and_ended():
    slow_start = [(10.0, 5), (20.0, 5)]
    steady = [(30.0 + 2 * number, 5) for number in range(12)]
    slow_end = [(90.0, 5), (99.0, 5)]
    assert steady_rate([*slow_end, *steady, *slow_start]) == 2.5


def test_the_time_to_the_first_line_leaves_out_what_comes_after_it():
    code = "import sys; print('first', file=sys.stderr, flush=True); sum(range(10**8))"
    command = [sys.executable, "-c", code]
    assert cpu_s_to_first_line(command) < cpu_s(command, 1) / 2
