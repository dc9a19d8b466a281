"""What an evaluation found, as lines for the terminal."""

from pathlib import Path

from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.scoring.intervals import Comparison
from seva_ray.stages.evaluate import compare
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.results import headlines, result_table
from seva_ray.stages.score_files import Evaluate, write_comparisons
from tests.answered import responses

BENCHMARK = ToyBenchmark(num_images=9)


def row(metric: str, start: float, policy: float, low: float, high: float) -> Comparison:
    edges = {f"{side}_{end}": 0.0 for side in ("start", "policy") for end in ("low", "high")}
    ends = {"difference_low": low, "difference_high": high}
    return Comparison(
        metric=metric, start=start, policy=policy, difference=policy - start, num_images=1234, **edges, **ends
    )


def scores_of(tmp_path: Path, name: str, rows: list[Comparison]) -> Artifact:
    artifact = Store(str(tmp_path)).open(f"scores/{name}/mine", config={})
    write_comparisons(artifact, rows)
    return artifact.finish({})


ROWS = [row("POPE random accuracy", 80, 81, -0.5, 2.5), row("POPE accuracy", 85, 86.7, 0.9, 2.5)]


def test_a_table_has_every_metric_of_both_models_with_the_difference_and_its_interval(tmp_path):
    assert result_table(scores_of(tmp_path, "pope-seva", ROWS)) == [
        "pope-seva, 1,234 images",
        "                          start   policy  difference [95% interval]",
        "  POPE random accuracy     80.0     81.0   +1.0 [-0.5, +2.5]",
        "  POPE accuracy            85.0     86.7   +1.7 [+0.9, +2.5]",
    ]


def test_a_headline_is_of_the_metric_over_all_questions_and_says_where_there_is_no_clear_difference(tmp_path):
    clear, unclear = scores_of(tmp_path, "pope-seva", ROWS), scores_of(tmp_path, "gqa", [row("GQA", 60, 59, -2, 0.1)])
    assert headlines([clear, unclear]) == [
        "POPE accuracy on pope-seva: 85.0 -> 86.7, +1.7 [+0.9, +2.5]",
        "GQA on gqa: 60.0 -> 59.0, -1.0 [-2.0, +0.1]: not distinguishable from no change",
    ]


def test_a_metric_without_a_value_is_said_to_have_none(tmp_path):
    nothing = float("nan")
    (line,) = headlines([scores_of(tmp_path, "chair", [row("CHAIRs", nothing, nothing, nothing, nothing)])])
    assert line == "CHAIRs on chair: n/a -> n/a, n/a [n/a, n/a]: not distinguishable from no change"


def test_what_rounds_to_zero_has_no_minus(tmp_path):
    (line,) = headlines([scores_of(tmp_path, "gqa", [row("GQA", 60, 60.5, -0.04, 1.1)])])
    assert line.endswith(", +0.5 [+0.0, +1.1]: not distinguishable from no change")


def test_the_first_metric_of_a_benchmark_stands_for_it(tmp_path):
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(), store, BENCHMARK.name, BENCHMARK)
    answers = dict.fromkeys((prompt.prompt_id for prompt in BENCHMARK.prompts()), "no")
    start, policy = (responses(store, prompts, name, answers) for name in ("start", "policy"))
    scores = compare(Evaluate(num_resamples=100), store, BENCHMARK, prompts, start, policy, "policy")
    (line,) = headlines([scores])
    assert line.startswith(f"VQA accuracy on {BENCHMARK.name}: ")
    assert line.endswith(", +0.0 [+0.0, +0.0]: not distinguishable from no change")
    assert len(result_table(scores)) == 2 + scores.counts["num_metrics"]
