"""The comparison of methods: its intervals are those of the statistics, and its page holds them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compare
from seva_ray.benchmarks.base import Tally
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.storage import read_bytes, write_bytes
from seva_ray.scoring.intervals import repeated_bootstrap
from seva_ray.stages.comparison import Compared, check_metrics, compare_methods, summary, summed, table_of
from seva_ray.stages.score_files import Evaluate, write_tallies

BENCHMARK = ToyBenchmark(num_images=6)
CONFIG = Evaluate(num_resamples=200)
METRICS = ("POPE accuracy", "describe recall")
AGAINST = ("seva", "sft")
METHODS = ("seva", "seva+image", "sft")


def tally(seed: int) -> Tally:
    """The tally of answers that are right by chance."""
    empty = BENCHMARK.tally({})
    random = np.random.default_rng(seed)
    share = random.random(empty.counts.shape).round(1)
    counts = np.where(empty.counts > 0, empty.counts * share, share)
    return Tally(image_ids=empty.image_ids, names=empty.names, counts=counts)


def made(store: Store, method: str, base: int, seed: int) -> tuple[Artifact, Artifact]:
    """A policy and its scores."""
    name = f"c-toy-{base}-{method}-{seed}"
    policy = store.open(f"policies/{name}", config={"method": method}).begin()
    slope = 1 + METHODS.index(method)
    log = [{"step": step, "loss": 0.7, "rewards/margins": slope * step} for step in (1, 2, 3)]
    log = [row | ({"rewards/image_margins": 0.5} if method == "seva+image" else {}) for row in log]
    write_bytes(policy.path("log.json"), json.dumps([*log, {"step": 3, "train_runtime": 3.0 * slope}]).encode())
    policy = policy.finish({"num_pairs": 40 + base, "num_steps": 3})
    scores = store.open(f"scores/{BENCHMARK.name}/{name}", config={}).begin()
    write_tallies(scores, tally(base), tally(100 * base + 10 * METHODS.index(method) + seed))
    return policy, scores.finish({})


@pytest.fixture
def compared(tmp_path: Path) -> list[Compared]:
    """Three methods from three base models, with two seeds each."""
    store = Store(str(tmp_path))
    found = []
    for method in METHODS:
        of_bases = [[made(store, method, base, seed) for seed in (1, 2)] for base in (1, 2, 3)]
        policies = [[policy for policy, _ in row] for row in of_bases]
        scores = {BENCHMARK.name: [[score for _, score in row] for row in of_bases]}
        found.append(Compared(method=method, policies=policies, scores=scores))
    return found


def test_the_counts_of_seeds_are_added_up_and_base_models_are_the_repeats(compared: list[Compared]):
    table = table_of(CONFIG, BENCHMARK, compared, METRICS, AGAINST)
    starts = [summed([tally(base)] * 2) for base in (1, 2, 3)]
    of_seva, of_sft = (
        [summed([tally(100 * base + 10 * number + seed) for seed in (1, 2)]) for base in (1, 2, 3)] for number in (0, 2)
    )
    expected = {row.metric: row for row in repeated_bootstrap(starts, of_sft, BENCHMARK.metrics, num_resamples=200)}
    assert list(table.against_base["sft"]) == [expected[metric] for metric in METRICS]
    assert len(table.against_base["sft"][0].differences) == 3
    expected = {row.metric: row for row in repeated_bootstrap(of_seva, of_sft, BENCHMARK.metrics, num_resamples=200)}
    assert list(table.against["seva"]["sft"]) == [expected[metric] for metric in METRICS]
    assert {name: list(rows) for name, rows in table.against.items()} == {
        "seva": ["seva+image", "sft"],
        "sft": ["seva", "seva+image"],
    }
    differences = table.against["sft"]["seva"][0].differences
    assert differences == pytest.approx([-value for value in expected[METRICS[0]].differences])
    assert summed([tally(1), tally(2)]).counts == pytest.approx(tally(1).counts + tally(2).counts)


@pytest.mark.parametrize(
    ("above", "said"), [(0.5, "seva gains most, +0.5"), (0.0, "no method gains, and seva comes nearest, +0.0")]
)
def test_the_headline_names_a_method_that_gains_or_says_that_none_does(compared: list[Compared], above, said):
    table = table_of(CONFIG, BENCHMARK, compared, METRICS, AGAINST)
    rows = {
        method: [replace(rows[0], difference=above if method == "seva" else -1.0, difference_low=-1.0)]
        for method, rows in table.against_base.items()
    }
    line = summary(compared, [replace(table, against_base=rows)])[0]
    assert said in line


def test_the_page_has_each_method_with_its_cost_and_is_drawn_again_only_if_something_changed(
    compared: list[Compared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = Store(str(tmp_path))

    def drawn() -> str:
        arguments = (
            CONFIG,
            store,
            "c",
            [BENCHMARK],
            compared,
            METRICS,
            AGAINST,
            "python <b>",
            {"train": {"beta": 0.1}},
        )
        return read_bytes(compare_methods(*arguments)).decode()

    page = drawn()
    rows = [line for line in page.splitlines() if line.strip().startswith('<tr><th scope="row">')]
    assert [row.split('"row">')[1].split("<")[0].strip() for row in rows] == [
        *METHODS,
        "base model",
        *METHODS,
        *METHODS[1:],
        *METHODS[:2],
    ]
    assert "<h2>Against seva</h2>" in page
    assert "<h2>Against sft</h2>" in page
    assert rows[2].count("<small>control</small>") == 1
    assert "<small>" not in rows[1]
    assert [f"{number}.00</td>" in page for number in (1, 2, 3)] == [True] * 3, "three times the time of a step"
    assert page.count("Image margin") == 2, "as a title and as the text in the place of the image"
    assert "python &lt;b&gt;" in page
    assert "3 methods and controls from 3 base models, with 2 seeds each." in page
    assert "Intervals cover the choice of images and base models, but not" in page
    starts = [
        f"{row.start:.1f}" for row in table_of(CONFIG, BENCHMARK, compared, METRICS, AGAINST).against_base["seva"]
    ]
    assert [part.split("<")[0] for part in rows[3].split('"num">')[1:]] == starts
    assert "<script" not in page
    assert drawn() == page
    assert capsys.readouterr().err.splitlines()[-1].endswith("(unchanged)")


def test_a_metric_that_no_benchmark_has_is_named():
    check_metrics([BENCHMARK], METRICS)
    with pytest.raises(ConfigError, match=r"metric 'POPE': the benchmarks have .*POPE accuracy"):
        check_metrics([BENCHMARK], ("POPE",))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"methods": ()}, "methods: at least one is needed, and each only once"),
        ({"methods": ("seva", "seva")}, "methods: at least one is needed"),
        ({"against": ("dpo",)}, "against dpo: must be one of the methods, seva"),
        ({"models": ()}, "models: at least one is needed"),
        ({"seeds": (1, 1)}, "seeds: at least one is needed"),
        ({"views": ("clean",)}, "view clean: the rejected view must be an augmented one"),
        ({"methods": ("seva", "dpo")}, "method dpo: must be one of seva, anchor"),
    ],
)
def test_a_comparison_that_cannot_be_run_is_named(values: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        replace(compare.TOY, **values)
