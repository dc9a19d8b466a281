"""Several policies of one setting: their mean difference with an interval that holds images and repeats."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluate import EvaluateJob
from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.engines.config import Generate
from seva_ray.pages.run_content import ReportContent, ScoreTable
from seva_ray.pages.run_page import render
from seva_ray.scoring.intervals import Repeated, repeated_bootstrap
from seva_ray.stages import answers
from seva_ray.stages.evaluate import compare, evaluate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.repeats import read_outcomes, repeats, repeats_of
from seva_ray.stages.score_files import Evaluate, protocol_of, read_comparisons, read_tallies, title_of
from seva_ray.vlm.models import Model
from tests import judged_files
from tests.answered import responses
from tests.judge_server import JudgeServer, says

BENCHMARK = ToyBenchmark(num_images=12)
CONFIG = Evaluate(num_resamples=200)
POLICIES = ("p0", "p1", "p2")


def texts(share: float, seed: int) -> dict[str, str]:
    """About `share` of the yes/no questions is answered with no, the rest with yes."""
    rng = np.random.default_rng(seed)
    return {prompt.prompt_id: "no" if rng.random() < share else "yes" for prompt in BENCHMARK.prompts()}


def row_of(together: Artifact, metric: str) -> Repeated:
    (row,) = (row for row in read_comparisons(together) if row.metric == metric)
    assert isinstance(row, Repeated)
    return row


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def scores(store: Store) -> list[Artifact]:
    prompts = prepare(Prepare(), store, BENCHMARK.name, BENCHMARK)
    start = responses(store, prompts, "start", texts(0.1, 9))
    return [
        compare(CONFIG, store, BENCHMARK, prompts, start, responses(store, prompts, name, texts(0.5, seed)), name)
        for seed, name in enumerate(POLICIES)
    ]


@pytest.fixture(scope="module")
def together(store: Store, scores: Sequence[Artifact]) -> Artifact:
    return repeats(CONFIG, store, BENCHMARK, scores, "p")


def test_the_mean_difference_comes_with_an_interval_over_images_and_policies(
    scores: Sequence[Artifact], together: Artifact
):
    starts, policies = zip(*map(read_tallies, scores), strict=True)
    expected = repeated_bootstrap(starts, policies, BENCHMARK.metrics, num_resamples=200)
    found = read_comparisons(together)
    np.testing.assert_equal([vars(row) for row in found], [vars(row) for row in expected])
    row = row_of(together, "POPE accuracy")
    own = [next(one for one in read_comparisons(item) if one.metric == row.metric) for item in scores]
    assert row.differences == pytest.approx([one.difference for one in own])
    assert row.difference == pytest.approx(np.mean(row.differences))
    assert row.difference_low < row.difference < row.difference_high


def test_flips_of_each_policy_stand_beside_one_test_over_all(scores: Sequence[Artifact], together: Artifact):
    flips = together.counts["flips"]
    assert flips["gained"] == [item.counts["flips"]["gained"] for item in scores] != [0, 0, 0]
    assert flips["lost"] == [item.counts["flips"]["lost"] for item in scores]
    assert flips["num_images"] == 12
    assert flips["num_questions"] == len(read_outcomes(scores[0])[0])
    assert 0 < flips["p_value"] < 1


def test_scores_from_before_outcomes_were_kept_are_taken_together_without_them(
    store: Store, scores: Sequence[Artifact]
):
    old = [replace(item, record={"counts": dict(item.counts)}) for item in scores]
    for item in old:
        del item.record["counts"]["flips"]  # type: ignore[index]
    assert "flips" not in repeats(CONFIG, store, BENCHMARK, old, "old").counts


def test_the_second_time_it_is_read_and_a_policy_knows_where_it_takes_part(
    store: Store, scores: Sequence[Artifact], together: Artifact
):
    assert repeats(CONFIG, store, BENCHMARK, scores, "p").record == together.record
    assert together.name in [item.name for item in repeats_of(store, "p1")]
    assert repeats_of(store, "p") == []


def test_the_page_shows_each_policys_difference_and_what_the_interval_holds(together: Artifact):
    table = ScoreTable(
        benchmark=title_of(together),
        protocol=protocol_of(together),
        comparisons=read_comparisons(together),
        notes=answers.notes(together),
        num_policies=3,
    )
    page = render(ReportContent(title="t", scores=[table]))
    assert f"{BENCHMARK.name}, over 3 policies" in page
    assert "also includes the chance in the choice of training seeds (Student’s over 3 policies)" in page
    assert "not that of another training seed" not in page
    each = ", ".join(f"{value:+.1f}".replace("-", "−") for value in row_of(together, "POPE accuracy").differences)
    assert f"each: {each}" in page
    means, flips = table.notes
    assert means == "The numbers are means over p0, p1, p2, each compared with the model that it started from."
    assert "the policies gained " + " + ".join(map(str, together.counts["flips"]["gained"])) in flips
    assert "McNemar's test for clusters gives p = " in flips


def test_policies_may_each_have_a_start_of_their_own(store: Store):
    prompts = store.find(f"prompts/{BENCHMARK.name}")
    sides = [
        [responses(store, prompts, f"{name}{seed}", texts(share, seed)) for name, share in (("s", 0.0), ("q", 0.9))]
        for seed in (0, 1)
    ]
    scores = [
        compare(CONFIG, store, BENCHMARK, prompts, start, policy, f"q{seed}")
        for seed, (start, policy) in enumerate(sides)
    ]
    found = repeats(CONFIG, store, BENCHMARK, scores, "q")
    assert found.counts["policies"] == ["q0", "q1"]
    assert list(found.recipe["inputs"]) == [item.name for item in scores]


def test_what_a_judge_scored_is_taken_together_and_names_judge_and_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from seva_ray.benchmarks.judged import MmVet

    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    store, benchmark = Store(str(tmp_path / "runs")), MmVet(path=judged_files.mm_vet(tmp_path / "mm_vet"))
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    start, *policies = (
        responses(store, prompts, name, {"v1_0": name, "v1_1": name, "v1_2": "c"})
        for name in ("bad", "superb", "middling")
    )
    with JudgeServer(
        says(lambda prompt: f"Score: {1.0 if 'superb' in prompt else 0.5 if 'middling' in prompt else 0.0}")
    ) as server:
        judge = Endpoint(server.judge())
        scores = [
            compare(CONFIG, store, benchmark, prompts, start, policy, name, judge)
            for policy, name in zip(policies, ("superb", "middling"))
        ]
    together = repeats(CONFIG, store, benchmark, scores, "both")
    assert row_of(together, "MM-Vet").differences == pytest.approx([200 / 3, 100 / 3])
    assert title_of(together) == "mm-vet-own-prompt, judged by judge-1, over 2 policies"
    assert (
        protocol_of(together)
        == protocol_of(scores[0])
        == f"own-prompt {scores[0].counts['judging']['prompt_hash']}, judged by judge-1"
    )
    assert len(answers.notes(together)) == 1


def test_two_models_of_one_name_are_refused_because_their_responses_would_be_one(store: Store):
    models = [Model(name="a", directory=directory, fingerprint=directory) for directory in ("one", "two")]
    with pytest.raises(ConfigError, match=r"^models a, a: two have the same name$"):
        evaluate(CONFIG, Generate(), store, [], [], [(models[0], models[1])])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"policy": ()}, "policy: expected one or more, each once, got none"),
        ({"policy": ("a", "b", "a")}, "policy: expected one or more, each once, got a b a"),
        ({"start": ("s", "t"), "policy": ("a", "b", "c")}, "start: 2 models for 3 policies; give one, or one for each"),
        ({"start": ()}, "start: 0 models for 1 policies; give one, or one for each"),
    ],
)
def test_contests_that_cannot_be_are_refused_in_one_line(fields: dict, line: str):
    with pytest.raises(ConfigError) as caught:
        EvaluateJob(**{"start": ("s",), "policy": ("a",)} | fields)
    assert str(caught.value) == line
