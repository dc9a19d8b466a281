"""Answers to MMBench that no rule can read are read by the judge, and the protocol's name says so."""

from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.judged import JudgedBenchmarks
from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge
from seva_ray.benchmarks.judged.mmbench_reader import parse
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.stages.evaluate import compare
from seva_ray.stages.judge import open_judge
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate, protocol_of, read_comparisons
from tests.answered import responses
from tests.judge_server import KEY, JudgeServer, says
from tests.test_mmbench import RIGHT, published_like, write

IDS = {key[1:]: letter for key, letter in RIGHT.items()}
WORDS = {"1": "the pet that barks", "1000001": "the pet that barks"}
"""Answers that no rule can read. The right option of the first row is B, and that of its rotation is A."""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def benchmark(tmp_path: Path) -> Any:
    path = write(tmp_path, published_like()).path
    (chosen,) = JudgedBenchmarks(mmbench=path).chosen("vicuna_v1")
    return chosen


def scored(tmp_path: Path, benchmark: MMBench, endpoint: Endpoint | None, start: dict[str, str]) -> Artifact:
    store = Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    before, after = responses(store, prompts, "start", start), responses(store, prompts, "policy", IDS)
    return compare(Evaluate(num_resamples=100), store, benchmark, prompts, before, after, "policy", endpoint)


def reads(prompt: str) -> str:
    """A judge that knows which option barks."""
    options = prompt[prompt.index("<options>\n") :].splitlines()
    return f"It barks.\nOption: {next((line[0] for line in options if line[1:] == '. dog'), 'none')}"


def test_an_answer_that_no_rule_reads_is_right_if_the_judge_reads_the_right_option(tmp_path: Path, benchmark: Any):
    with JudgeServer(says(reads)) as server:
        artifact = scored(tmp_path, benchmark, Endpoint(server.judge()), IDS | WORDS)
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert rows["MMBench circular accuracy"].start == 100
    assert (artifact.counts["num_asked"], artifact.counts["num_read"]) == (2, 2), "one prompt for each order of options"
    assert all("<question>\nquestion 1?\n</question>" in call.prompt for call in server.calls)
    assert artifact.counts["flips"]["right"] == 2


def test_what_the_judge_cannot_read_is_wrong(tmp_path: Path, benchmark: Any):
    with JudgeServer(says("Option: none")) as server:
        artifact = scored(tmp_path, benchmark, Endpoint(server.judge()), IDS | WORDS | {"2": ""})
    rows = {row.metric: row for row in read_comparisons(artifact)}
    assert (rows["MMBench circular accuracy"].start, rows["MMBench circular accuracy"].policy) == (0, 100)
    assert (artifact.counts["num_asked"], artifact.counts["num_read"]) == (2, 0), "an empty answer is not shown"


def test_the_protocol_names_the_judge_and_its_prompt(tmp_path: Path, benchmark: Any):
    assert benchmark.name == "mmbench-en-llava-vicuna_v1-judge-own-prompt"
    with JudgeServer(says(reads)) as server:
        artifact = scored(tmp_path, benchmark, Endpoint(server.judge()), IDS)
    config = artifact.recipe["config"]
    assert protocol_of(artifact) == f"llava-vicuna_v1, read by {server.judge().model} {config['prompt_hash']}"
    assert config["rules"] == "vlmevalkit-2025-04"
    assert server.calls == [], "rules read every answer"
    with pytest.raises(ConfigError, match=r"judge\.model: mmbench-en-llava-vicuna_v1-judge-own-prompt needs a judge"):
        open_judge(Judge(), [benchmark])


@pytest.mark.parametrize(
    ("verdict", "mark"),
    [
        ("Option: A", (0.0,)),
        ("Because it barks.\n**Option: d.**", (3.0,)),
        ("Option: none", (-1.0,)),
        ("A", None),
        ("Option: A\nOption: B", None),
        ("Option: E", None),
    ],
)
def test_a_verdict_of_the_requested_form_is_read(verdict: str, mark: tuple[float, ...] | None):
    assert parse(verdict) == mark
