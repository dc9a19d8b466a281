"""Responses to a judged benchmark become scores with intervals, spread and verdicts, over a real socket."""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import evaluate as evaluate_job
from seva_ray.benchmarks import Benchmark
from seva_ray.benchmarks.judged import Competition, JudgedBenchmark, MmVet, Shr
from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import FingerprintMismatch, InputError
from seva_ray.core.storage import exists, read_table
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime import cli as job
from seva_ray.stages.evaluate import compare, evaluate, prepare_benchmarks
from seva_ray.stages.judge import prompt_hash
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate, read_comparisons, title_of
from seva_ray.vlm.models import model_at
from tests import judged_files
from tests.answered import responses
from tests.judge_server import KEY, Call, Handler, JudgeServer, fails, first, says

POLICY = "policy"
START = {"v1_0": "x = 3", "v1_1": "7", "v1_2": "a knight"}
BETTER = {"v1_0": "x = -1", "v1_1": "7", "v1_2": "a queen"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def scored(
    store: Store, benchmark: JudgedBenchmark, endpoint: Endpoint, start: dict[str, str], policy: dict[str, str]
) -> Artifact:
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    before, after = responses(store, prompts, "start", start), responses(store, prompts, "policy", policy)
    return compare(Evaluate(num_resamples=100), store, benchmark, prompts, before, after, POLICY, endpoint)


def grades(prompt: str) -> str:
    """A judge of MM-Vet that knows these answers."""
    good = {"x = -1": "0.5", "\n7\n": "1.0", "a queen": "1.0"}
    answer = prompt[prompt.index("<answer>\n") :]
    return f"Score: {next((score for text, score in good.items() if text in answer), '0.0')}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def mm_vet(tmp_path: Path) -> MmVet:
    return MmVet(path=judged_files.mm_vet(tmp_path / "mm_vet"))


def test_scores_of_both_models_come_with_an_interval_and_the_record_names_judge_and_prompt(store: Store, mm_vet: MmVet):
    with JudgeServer(says(grades)) as server:
        artifact = scored(store, mm_vet, Endpoint(server.judge(num_repeats=2)), START, BETTER)
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert rows["MM-Vet"].start == pytest.approx(100 / 3)
    assert rows["MM-Vet"].policy == pytest.approx(250 / 3)
    assert rows["MM-Vet"].difference_low <= 50 <= rows["MM-Vet"].difference_high
    judging = artifact.counts["judging"]
    assert judging["judge"] == "judge-1"
    assert judging["models"] == {"judge-1-0613": 10}
    assert judging["prompt_hash"] == prompt_hash(mm_vet) == artifact.recipe["config"]["prompt_hash"]
    assert artifact.recipe["config"]["judge"]["temperature"] == 0.2
    assert judging["num_verdicts"] == judging["num_calls"] == 10, "5 different answers, each judged twice"
    assert judging["num_unjudged"] == 0
    assert judging["agreement"] == 1


def test_what_is_judged_is_never_asked_again_not_even_for_another_policy(store: Store, mm_vet: MmVet):
    with JudgeServer(says(grades)) as server:
        scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
        before = len(server.calls)
        scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
        assert len(server.calls) == before == 5
        prompts = store.find(f"prompts/{mm_vet.name}")
        other = responses(store, prompts, "other", BETTER | {"v1_2": "a jester"})
        start = store.find(f"responses/start/{mm_vet.name}/clean")
        artifact = compare(
            Evaluate(num_resamples=100), store, mm_vet, prompts, start, other, "other", Endpoint(server.judge())
        )
    assert len(server.calls) == 6
    assert artifact.counts["judging"]["num_calls"] == 1


def test_two_jobs_that_judge_the_same_answers_at_once_pay_for_each_verdict_once(store: Store, mm_vet: MmVet):
    prompts = prepare(Prepare(), store, mm_vet.name, mm_vet)
    before, after = responses(store, prompts, "start", START), responses(store, prompts, "policy", BETTER)
    together = threading.Barrier(2)

    with JudgeServer(says(grades)) as server:

        def job(_: int) -> Artifact:
            endpoint = Endpoint(server.judge())
            together.wait()
            return compare(Evaluate(num_resamples=100), store, mm_vet, prompts, before, after, POLICY, endpoint)

        with ThreadPoolExecutor(2) as jobs:
            first_job, second_job = jobs.map(job, range(2))
    assert len(server.calls) == 5
    assert first_job.record == second_job.record


def test_repeats_that_differ_are_averaged_and_their_spread_is_kept(store: Store, mm_vet: MmVet):
    given: Counter[str] = Counter()

    def moody(handler: Handler, call: Call, number: int) -> None:
        given[call.prompt] += 1
        says(f"Score: {[0.2, 0.4, 0.9][given[call.prompt] - 1]}")(handler, call, number)

    with JudgeServer(moody) as server:
        judge = server.judge(num_repeats=3, max_concurrent=1)
        artifact = scored(store, mm_vet, Endpoint(judge), START, BETTER)
    (row,) = [row for row in read_comparisons(artifact) if row.metric == "MM-Vet"]
    assert row.start == row.policy == pytest.approx(50)
    spread = json.loads(Path(artifact.path("repeats.json")).read_text())["MM-Vet"]
    assert (
        sorted(spread["start"]) == sorted(spread["policy"]) == [pytest.approx(20), pytest.approx(40), pytest.approx(90)]
    )
    assert artifact.counts["judging"]["agreement"] == 0


def test_a_question_that_is_unjudged_for_one_model_is_left_out_for_both_and_counted(store: Store, mm_vet: MmVet):
    with JudgeServer(says(lambda prompt: "well" if "a queen\n</answer>" in prompt else grades(prompt))) as server:
        artifact = scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert (rows["MM-Vet"].start, rows["MM-Vet"].policy) == (50, 75)
    assert artifact.counts["judging"]["num_unjudged"] == 1
    verdicts = read_table(artifact.path("verdicts.parquet")).to_pylist()
    assert len(verdicts) == 6
    assert [(row["model"], row["prompt_id"], row["text"]) for row in verdicts if row["marks"] is None] == [
        ("policy", "v1_2", "well")
    ]


def test_a_response_with_an_error_is_judged_as_an_empty_answer(store: Store, mm_vet: MmVet):
    with JudgeServer(says(grades)) as server:
        judge = Endpoint(server.judge())
        artifact = scored(store, mm_vet, judge, START, {key: BETTER[key] for key in ("v1_0", "v1_1")})
    assert title_of(artifact).endswith("0 of start and 1 of policy failed and are judged as empty answers")
    assert sum("<answer>\n\n</answer>" in call.prompt for call in server.calls) == 1


def test_in_the_competition_wins_and_losses_mirror_each_other_and_a_fondness_for_one_place_is_a_tie(
    store: Store, tmp_path: Path
):
    benchmark = Competition(path=judged_files.llava_bench(tmp_path / "llava"))

    def fond(prompt: str) -> str:
        """A judge that sees what is good and what is bad. If it sees no difference, it prefers the first."""
        first, second = prompt.split("<first_answer>")[1].split("<second_answer>")
        if "good" in first or "bad" in second:
            return "Better: first"
        return "Better: second" if "good" in second or "bad" in first else "Better: first"

    start = {"0": "same", "1": "dull", "2": "dull", "3": "plain"}
    policy = {"0": "same", "1": "good", "2": "bad", "3": "simple"}
    with JudgeServer(says(fond)) as server:
        artifact = scored(store, benchmark, Endpoint(server.judge()), start, policy)
    assert len(server.calls) == 6, "three pairs that differ, in two orders"
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert (rows["wins"].start, rows["wins"].policy, rows["ties"].policy) == (25, 25, 50)
    assert rows["ties"].difference == rows["wins"].difference == 0


def test_a_list_of_sentences_is_judged_whole(store: Store, tmp_path: Path):
    path, genome = judged_files.shr(tmp_path / "shr")
    marks = "1: correct\n2: hallucination"
    with JudgeServer(says(lambda prompt: marks if "2: B." in prompt else marks[:10])) as server:
        judge = Endpoint(server.judge())
        artifact = scored(store, Shr(path=path, image_root=genome), judge, {"11": "A. B."}, {"11": "A.", "12": ""})
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert (rows["SHR"].start, rows["SHR"].policy) == (50, 0)
    assert len(server.calls) == 2


@pytest.mark.parametrize("model", ["../../up", "org/judge:7b", "..", "a b"])
def test_replies_stay_under_the_root_whatever_the_judge_is_called(
    store: Store, mm_vet: MmVet, model: str, tmp_path: Path
):
    with JudgeServer(says(grades)) as server:
        artifact = scored(store, mm_vet, Endpoint(server.judge(model=model)), START, BETTER)
    assert artifact.counts["judging"]["judge"] == model
    (folder,) = (tmp_path / "runs" / "verdicts").iterdir()
    assert len(list(folder.glob("*.json"))) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"mm_vet", "runs"}


def test_a_spent_budget_leaves_no_scores_but_every_verdict_and_the_next_run_finishes(store: Store, mm_vet: MmVet):
    with JudgeServer(says(grades)) as server:
        with pytest.raises(InputError, match="judge judge-1: 3 of 5 verdicts are missing"):
            scored(store, mm_vet, Endpoint(server.judge(max_calls=2)), START, BETTER)
        assert not exists(store.uri("scores")), "the name is taken by the scores, not by the try"
        scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
    assert len(server.calls) == 5


def test_another_judge_under_the_same_name_is_refused(store: Store, mm_vet: MmVet):
    with JudgeServer(says(grades)) as server:
        scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
        with pytest.raises(FingerprintMismatch, match=r"judge\.model: .judge-1. -> .judge-2."):
            scored(store, mm_vet, Endpoint(server.judge(model="judge-2")), START, BETTER)


def test_the_key_is_in_no_artifact_and_no_output(
    store: Store, mm_vet: MmVet, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(0)

    def echoes(handler: Handler, call: Call, number: int) -> None:
        says(f"{call.headers['Authorization']}\nScore: 0.5")(handler, call, number)

    with JudgeServer(echoes) as server:
        artifact = scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
    files = [path for path in Path(store.root).rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    out = capfd.readouterr()
    assert "judge mm-vet-own-prompt by judge-1" in out.err
    assert KEY not in out.out + out.err + caplog.text
    assert "Bearer ***" in read_table(artifact.path("verdicts.parquet"))["text"][0].as_py()


def test_outcomes_of_every_question_that_is_right_or_wrong_are_kept_with_the_answers(store: Store):
    benchmark = ToyBenchmark(num_images=3)
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    ids = [prompt.prompt_id for prompt in benchmark.prompts()]
    before, after = (
        responses(store, prompts, model, dict.fromkeys(ids, text)) for model, text in (("a", "yes"), ("b", "no"))
    )
    artifact = compare(Evaluate(num_resamples=100), store, benchmark, prompts, before, after, POLICY)
    rows = read_table(artifact.path("outcomes.parquet")).to_pylist()
    flips = artifact.counts["flips"]
    assert len(rows) == flips["right"] + flips["gained"] + flips["lost"] + flips["wrong"]
    assert sum(row["policy_right"] and not row["start_right"] for row in rows) == flips["gained"] > 0
    assert sum(row["start_right"] and not row["policy_right"] for row in rows) == flips["lost"] > 0
    assert {(row["start"], row["policy"]) for row in rows} == {("yes", "no")}


def test_scores_that_need_no_judge_are_there_whatever_the_judge_does(
    ray_cluster: None, toy_model: str, store: Store, mm_vet: MmVet
):
    model = model_at(toy_model)
    benchmarks: list[Benchmark | JudgedBenchmark] = [mm_vet, ToyBenchmark(num_images=3)]
    prompts = prepare_benchmarks(Prepare(), store, benchmarks)
    settings = Evaluate(num_resamples=100), Generate(engine=FakeEngine())

    def run(judge: Judge) -> list[Artifact]:
        policy = replace(model, name="policy")
        return evaluate(*settings, store, benchmarks, prompts, [(model, policy)], Endpoint(judge))

    with JudgeServer(first(1, fails(401), says("Score: 0.5"))) as server:
        with pytest.raises(InputError, match="HTTP 401"):
            run(server.judge(max_concurrent=1))
        assert store.names("scores") == [f"scores/{benchmarks[1].name}/policy"]
        artifacts = run(server.judge())
    assert {artifact.name for artifact in artifacts} == set(store.names("scores"))
    assert len(server.calls) <= 2 + 3, "both models answer the same, so each of three answers is judged once"
    (row,) = [row for row in read_comparisons(artifacts[-1]) if row.metric == "MM-Vet"]
    assert (row.start, row.policy, row.difference) == (50, 50, 0)


@pytest.fixture
def line_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, mm_vet: MmVet):
    """The one line that the evaluate job prints, before any model loads."""

    def line(*words: str) -> str:
        argv = ["evaluate.py", "--root", str(tmp_path / "runs"), "--judged.mm-vet", mm_vet.path, *words]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as exit_:
            job.run(evaluate_job.main, evaluate_job.PRESETS, "test")
        assert exit_.value.code == 2
        start, found = capsys.readouterr().err.strip().splitlines()
        assert start == f"evaluate toy: root {tmp_path / 'runs'}"
        return found

    return line


def test_a_judged_benchmark_without_a_judge_is_one_line(line_of):
    assert line_of() == "error: judge.model: mm-vet-own-prompt needs a judge; name its model"


def test_a_missing_key_is_one_line_that_names_the_variable(line_of, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "environment variable OPENAI_API_KEY: not set" in line_of("--judge.model", "gpt-4o")


def test_a_judge_that_does_not_know_the_model_ends_in_one_line(store: Store, mm_vet: MmVet):
    with JudgeServer(fails(404, "no such model")) as server:
        with pytest.raises(InputError, match="HTTP 404 no such model"):
            scored(store, mm_vet, Endpoint(server.judge()), START, BETTER)
        assert store.names("scores") == []
