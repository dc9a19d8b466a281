"""What the report says of two models' answers, from the artifacts that evaluation leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import Response
from seva_ray.stages import answers
from seva_ray.stages.evaluate import compare
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate, protocol_of, title_of
from tests import judged_files
from tests.answered import responses
from tests.judge_server import JudgeServer, says

POLICY = "policy"
BENCHMARK = ToyBenchmark(num_images=9)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def texts() -> tuple[dict[str, str], dict[str, str]]:
    """The start says yes, red triangle or nothing; the policy says no, and describes nothing."""
    ids = [prompt.prompt_id for prompt in BENCHMARK.prompts()]
    kinds = [(key, "red triangle , blue ring" if "describe" in prompt.question else "yes")
             for key, prompt in zip(ids, BENCHMARK.prompts())]  # fmt: skip
    return dict(kinds[1:]), dict.fromkeys(ids, "no")


@pytest.fixture(scope="module")
def scores(store: Store, texts: tuple[dict[str, str], dict[str, str]]) -> Artifact:
    prompts = prepare(Prepare(shard_size=7), store, BENCHMARK.name, BENCHMARK)
    start, policy = (responses(store, prompts, name, of) for name, of in zip(("start", "policy"), texts))
    return compare(Evaluate(num_resamples=100), store, BENCHMARK, prompts, start, policy, POLICY)


def test_lengths_are_those_of_every_answer_but_not_of_errors(store: Store, scores: Artifact, texts):
    lengths = answers.lengths(store, scores)
    assert lengths.benchmark == BENCHMARK.name
    assert sorted(lengths.start) == sorted(len(text.split()) for text in texts[0].values())
    assert len(lengths.policy) == len(texts[1]) == len(lengths.start) + 1


def test_flips_are_questions_that_one_model_answers_right_with_their_own_pictures(
    store: Store, scores: Artifact, texts: tuple[dict[str, str], dict[str, str]]
):
    def picture(prompts: Artifact, row: Mapping[str, Any]) -> bytes:
        return row["image_bytes"]

    flips = answers.flips(store, scores, 3, picture)
    assert [flip.gained for flip in flips] == [True] * 3 + [False] * 3
    asked = {prompt.prompt_id: prompt for prompt in BENCHMARK.prompts()}
    right = [BENCHMARK.correct({key: Response(prompt_id=key, text=text) for key, text in of.items()}) for of in texts]
    for flip in flips:
        prompt = asked[flip.prompt_id]
        assert (flip.question, flip.image_png) == (prompt.question, prompt.image_bytes)
        assert (right[0][flip.prompt_id], right[1][flip.prompt_id]) == (not flip.gained, flip.gained)
        assert (flip.start, flip.policy) == (texts[0].get(flip.prompt_id, ""), "no")
    assert answers.flips(store, scores, 3, picture) == flips, "the same ones every time"
    assert answers.flips(store, scores, 0, picture) == []


def test_the_note_counts_gained_and_lost_questions(scores: Artifact):
    flips = scores.counts["flips"]
    (note,) = answers.notes(scores)
    assert f"gained {flips['gained']} and lost {flips['lost']}: McNemar's exact test gives p = " in note


def test_things_that_no_image_has_are_counted_for_both_models(scores: Artifact, texts):
    found = answers.hallucinated(scores)
    described = BENCHMARK.hallucinated({key: Response(prompt_id=key, text=text) for key, text in texts[0].items()})
    counts = {thing: sum(thing in of for of in described.values()) for thing in ("red triangle", "blue ring")}
    assert found.start == {thing: count for thing, count in counts.items() if count}
    assert found.policy == {}
    assert sum(counts.values()) > 5


def test_the_note_of_a_judged_benchmark_names_judge_prompt_spread_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from seva_ray.benchmarks.judged import MmVet

    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    store, benchmark = Store(str(tmp_path / "runs")), MmVet(path=judged_files.mm_vet(tmp_path / "mm_vet"))
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    start = responses(store, prompts, "start", {"v1_0": "a", "v1_1": "b", "v1_2": "c"})
    policy = responses(store, prompts, "policy", {"v1_0": "a", "v1_1": "b", "v1_2": "d"})
    with JudgeServer(says(lambda prompt: "??" if "\nd\n" in prompt else "Score: 1.0")) as server:
        judge = Endpoint(server.judge(num_repeats=2))
        scores = compare(Evaluate(num_resamples=100), store, benchmark, prompts, start, policy, POLICY, judge)
    assert title_of(scores) == "mm-vet-own-prompt, judged by judge-1"
    assert protocol_of(scores) == f"own-prompt {scores.counts['judging']['prompt_hash']}, judged by judge-1"
    (note,) = answers.notes(scores)
    for part in (
        "The judge is judge-1 (which answered as judge-1-0613), with our own prompt "
        f"(hash {scores.counts['judging']['prompt_hash']}), so these numbers cannot be compared with published ones.",
        "means of 2 repeats, over which MM-Vet has a standard deviation of 0.0 (start) and 0.0 (policy).",
        "Two repeats of a judgement agree in 100% of cases.",
        "2 of 8 judgements are missing (0 refused, the rest unreadable)",
    ):
        assert part in note
    assert "More than one model" not in note
    moved = {**scores.counts["judging"], "models": {"judge-1-0613": 5, "judge-1-0911": 2, "": 1}}
    assert "More than one model answered under that name" in answers.judging_note(
        moved, {"MM-Vet": {"start": [], "policy": []}}
    )
    assert answers.flips(store, scores, 3, lambda prompts, row: b"") == []
