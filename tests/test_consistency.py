"""Sampled answers to the same question: how far they agree, starting model beside policy."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.pages.run_content import ReportContent
from seva_ray.pages.run_page import render
from seva_ray.stages import answers
from seva_ray.stages.consistency import Consistency, compare_again, consistency_of, count, part_of
from seva_ray.stages.evaluate import evaluate, prepare_benchmarks
from seva_ray.stages.generate import read_responses
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.stages.results import agreements
from seva_ray.stages.score_files import Evaluate, read_comparisons
from seva_ray.vlm.models import Model, model_at
from tests.answered import responses

BENCHMARK = ToyBenchmark(num_images=6)
START, POLICY = (Model(name=name, directory=name, fingerprint=name) for name in ("start", "policy"))
AGAIN = Consistency(num_answers=3, num_prompts=8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def prompts(store: Store) -> Artifact:
    return prepare(Prepare(shard_size=5), store, BENCHMARK.name, BENCHMARK)


def ids_of(prompts: Artifact) -> list[str]:
    shards = (prompts.path(shard) for shard in shards_of(prompts))
    return [key for shard in shards for key in read_table(shard)["prompt_id"].to_pylist()]


def test_a_part_is_the_same_questions_in_their_order_and_a_smaller_part_is_in_a_larger(store: Store, prompts: Artifact):
    every = ids_of(prompts)
    parts = {size: ids_of(part_of(replace(AGAIN, num_prompts=size), store, prompts)) for size in (4, 8, 1000)}
    assert set(parts[4]) < set(parts[8]) < set(parts[1000]) == set(every)
    assert [len(part) for part in parts.values()] == [4, 8, len(every)]
    for part in parts.values():
        assert part == [key for key in every if key in part]
    other = part_of(replace(AGAIN, seed=1), store, prompts)
    assert set(ids_of(other)) != set(parts[8])
    assert part_of(AGAIN, store, prompts).counts["num_shards"] == 2, "shards as large as the benchmark's"
    (row, *_) = read_table(other.path(shard_name(0))).to_pylist()
    assert row in read_table(prompts.path(shard_name(every.index(row["prompt_id"]) // 5))).to_pylist()


def test_agreement_is_over_all_pairs_of_answers():
    assert count(["a red cup", "a red cup", "a cup"]) == {"asked": 1, "equal": 1 / 3, "shared": (1 + 2 / 3 + 2 / 3) / 3}
    assert count(["Yes", "yes."]) == {"asked": 1, "equal": 0, "shared": 1}


def drawn_answers(
    store: Store, part: Artifact, model: str, texts: list[list[str]], missing: str = ""
) -> dict[str, Artifact]:
    """`texts`: of every draw, to the questions in their order."""
    made = {}
    for view, of_draw in zip(AGAIN.views(), texts, strict=True):
        given = {key: text for key, text in zip(ids_of(part), of_draw, strict=True) if key != missing}
        artifact = responses(store, part, model, given, view)
        made[artifact.name] = artifact
    return made


def test_both_models_agreement_stands_beside_each_other_with_paired_intervals(store: Store, prompts: Artifact):
    part = part_of(AGAIN, store, prompts)
    # The start gives two equal answers of three to every question, the policy three, but for the last question.
    given = drawn_answers(store, part, "start", [["a"] * 8, ["a"] * 8, ["b"] * 8])
    given |= drawn_answers(store, part, "policy", [["c"] * 8, [" c\n"] * 8, ["c"] * 7 + ["d"]])
    found = compare_again(AGAIN, Evaluate(num_resamples=200), store, part, (START, POLICY), given)
    equal, shared = read_comparisons(found)
    assert equal.start == pytest.approx(100 / 3)
    assert equal.policy == pytest.approx(100 * (7 + 1 / 3) / 8)
    assert equal.difference_low <= equal.difference <= equal.difference_high
    assert equal.excludes_zero
    assert shared.start == pytest.approx(100 / 3), "one word, shared or not"
    counts = {key: found.counts[key] for key in ("num_answers", "temperature", "num_prompts", "num_left_out")}
    assert counts == {"num_answers": 3, "temperature": 0.7, "num_prompts": 8, "num_left_out": 0}
    assert consistency_of(store, "policy") == [found]
    assert consistency_of(store, "start") == []
    page = render(ReportContent(title="t", consistency=[answers.consistency(found)]))
    assert f"{BENCHMARK.name}, 3 answers to each of 8 questions, sampled at temperature 0.7" in page
    assert "pairs of answers that are equal" in page
    assert "no answers to compare" not in page
    of_equal, of_shared = agreements([found])
    assert of_equal.startswith(
        f"pairs of answers that are equal on {part.name.removeprefix('prompts/')}: 33.3 -> 91.7, +"
    )
    assert of_shared.startswith("words in both of two answers (Jaccard) on ")


def test_a_question_that_one_model_did_not_answer_once_is_left_out_for_both(store: Store, prompts: Artifact):
    part = part_of(AGAIN, store, prompts)
    missing = ids_of(part)[3]
    odd = [["a"] * 8, ["a"] * 8, ["a" if key != missing else "b" for key in ids_of(part)]]
    given = drawn_answers(store, part, "start", odd)
    given |= drawn_answers(store, part, "policy", [["c"] * 8] * 3, missing)
    found = compare_again(AGAIN, Evaluate(num_resamples=200), store, part, (START, POLICY), given)
    assert read_comparisons(found)[0].start == 100
    assert found.counts["num_left_out"] == 1
    (note,) = answers.consistency(found).notes
    assert note.startswith("1 of 8 questions are left out")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"num_answers": 1}, "num_answers 1: must be 0, or at least 2"),
        ({"num_answers": -2}, "num_answers -2: must be 0, or at least 2"),
        ({"temperature": 0.0}, "temperature 0.0: must be above 0, and finite"),
        ({"temperature": float("nan")}, "temperature nan: must be above 0, and finite"),
        ({"num_prompts": 0}, "num_prompts 0: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_named(fields: dict, line: str):
    with pytest.raises(ConfigError) as caught:
        Consistency(**fields)
    assert str(caught.value) == line


def test_answers_are_sampled_in_the_pool_that_answers_the_benchmark_and_are_there_the_next_time(
    ray_cluster: None, toy_model: str, store: Store, capsys: pytest.CaptureFixture
):
    start = model_at(toy_model)
    contests = [(start, replace(start, name=name)) for name in ("same", "twin")]
    generation = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=3), system="")
    benchmarks = [ToyBenchmark(num_images=3)]
    tests = prepare_benchmarks(Prepare(), store, benchmarks)
    again = Consistency(num_answers=3, num_prompts=6, temperature=0.5)

    def run() -> list[Artifact]:
        return evaluate(
            Evaluate(num_resamples=100), generation, store, benchmarks, tests, contests, None, again, "both"
        )

    scores = run()
    assert [item.name.split("/")[0] for item in scores] == ["scores", "scores", "repeats"]
    assert capsys.readouterr().err.count("generate with") == 1
    assert run() == scores
    assert "generate" not in capsys.readouterr().err
    (found,) = consistency_of(store, "same")
    equal, shared = read_comparisons(found)
    assert (equal.start, shared.start) == (equal.policy, shared.policy), "the same weights draw the same answers"
    name = part_of(again, store, tests[0]).name.removeprefix("prompts/")
    of_draws = [
        list(read_responses(store.find(f"prompts/{name}"), store.find(f"responses/toy/{name}/{view}")))
        for view in again.views()
    ]
    assert len({tuple(row.text for row in draw) for draw in of_draws}) == 3
    answered = [rows for rows in zip(*of_draws, strict=True) if not any(row.error for row in rows)]
    of_questions = [count([row.text.strip() for row in rows]) for rows in answered]
    assert 2 < len(answered) == 6 - found.counts["num_left_out"]
    assert shared.start == pytest.approx(fmean(100 * counts["shared"] for counts in of_questions))
