"""judge: two models' responses to a judged benchmark -> tallies; every judgement is kept beside the scores.

The driver asks the judge, so no worker holds its key. Replies are stored in `verdicts/<judge>`, shared by all
benchmarks and policies, so that a starting model is judged only once.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from seva_ray.benchmarks.base import Tally, tally_of
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge
from seva_ray.benchmarks.judged.judgement import Judgement, JudgePrompt, ask_all
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.records import Response
from seva_ray.core.storage import write_bytes, write_table
from seva_ray.runtime.kept_engines import make_room
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.resources import Need
from seva_ray.scoring.right_wrong import agreement

SIDES = ("start", "policy")
Answers = Mapping[str, str]
"""Texts of answers, by prompt_id."""


def open_judge(judge: Judge, benchmarks: Sequence[object]) -> Endpoint | None:
    """The judge's endpoint, or None if no benchmark needs one. Raises: ConfigError without a judge, InputError without
    its key."""
    judged = [
        benchmark.name
        for benchmark in benchmarks
        if isinstance(benchmark, JudgedBenchmark) or (isinstance(benchmark, MMBench) and benchmark.reader == "judge")
    ]
    if not judged:
        return None
    if not judge.model:
        raise ConfigError(f"judge.model: {', '.join(judged)} needs a judge; name its model")
    return Endpoint(judge)


def verdicts_of(judge: Judge) -> str:
    """The directory of the judge's replies, below the root."""
    return f"verdicts/{re.sub(r'[^A-Za-z0-9._+=-]', '-', judge.model).lstrip('.') or 'judge'}"


def judge_recipe(judge: Judge, benchmark: JudgedBenchmark) -> dict[str, Any]:
    return {"judge": judge, "prompt_hash": prompt_hash(benchmark)}


def prompt_hash(benchmark: JudgedBenchmark) -> str:
    return hashlib.sha256(benchmark.instructions.encode()).hexdigest()[:16]


def judged_tallies(
    endpoint: Endpoint,
    store: Store,
    benchmark: JudgedBenchmark,
    artifact: Artifact,
    responses: Sequence[Mapping[str, Response]],
) -> tuple[Tally, Tally, dict[str, Any]]:
    """The tallies of start and policy, each the mean over the judge's repeats, and the counts of the judging.

    If a question is unjudged for one model in a repeat, it is left out for both in that repeat.
    Raises: InputError if judgements are missing; those already made are kept.
    """
    judge = endpoint.judge
    image_ids = {prompt.prompt_id: prompt.image_id for prompt in benchmark.prompts()}
    start, policy = ({prompt_id: answer_of(of, prompt_id) for prompt_id in image_ids} for of in responses)
    answers = (start, policy)
    asked = [prompts_of(benchmark, one, other) for one, other in ((start, policy), (policy, start))]
    prompts = [prompt for of_side in asked for of_answer in of_side.values() for prompt in of_answer]
    distinct = {prompt.text for prompt in prompts}
    say(f"judge {benchmark.name} by {judge.model}: {len(distinct):,} prompts, each {judge.num_repeats} times")
    calls_before = endpoint.num_calls
    progress = Progress("judge", len(distinct) * judge.num_repeats, "verdicts")
    directory = store.uri(verdicts_of(judge))
    make_room(Need("the calls of the judge", 0, {}))  # they may take hours
    verdicts = ask_all(endpoint, directory, prompts, benchmark.parse, done=progress.add)
    repeats = [
        tallies_of(benchmark, image_ids, answers, asked, verdicts, repeat) for repeat in range(judge.num_repeats)
    ]
    artifact.begin()
    write_table(artifact.path("verdicts.parquet"), verdict_table(asked, verdicts))
    write_bytes(artifact.path("repeats.json"), json.dumps(metrics_of(benchmark, repeats), indent=1).encode())
    every = [verdict for of_prompt in verdicts.values() for verdict in of_prompt]
    counts = {
        "judge": judge.model,
        "prompt_hash": prompt_hash(benchmark),
        "num_repeats": judge.num_repeats,
        "num_verdicts": len(every),
        "num_unjudged": sum(verdict.marks is None for verdict in every),
        "num_refused": sum(verdict.refused for verdict in every),
        "num_calls": endpoint.num_calls - calls_before,  # calls of this run; other replies were stored already
        "num_tokens": sum(verdict.num_tokens for verdict in every),
        "models": dict(Counter(verdict.model for verdict in every)),
        "agreement": share(agreement([[one.marks for one in of_prompt] for of_prompt in verdicts.values()])),
    }
    return mean([of[0] for of in repeats]), mean([of[1] for of in repeats]), counts


def answer_of(responses: Mapping[str, Response], prompt_id: str) -> str:
    """The answer's text; empty if there is no usable response. The judge decides what an empty answer is worth."""
    response = responses.get(prompt_id)
    return response.text.strip() if response is not None and response.error is None else ""


def prompts_of(benchmark: JudgedBenchmark, answers: Answers, others: Answers) -> dict[str, list[JudgePrompt]]:
    return {
        prompt_id: benchmark.judge_prompts(prompt_id, answer, others[prompt_id])
        for prompt_id, answer in answers.items()
    }


def tallies_of(
    benchmark: JudgedBenchmark,
    image_ids: Mapping[str, str],
    answers: Sequence[Answers],
    asked: Sequence[Mapping[str, Sequence[JudgePrompt]]],
    verdicts: Mapping[str, Sequence[Judgement]],
    repeat: int,
) -> tuple[Tally, Tally]:
    """The tallies of start and policy in one repeat."""
    marks = [
        {prompt_id: [verdicts[prompt.text][repeat].marks for prompt in prompts] for prompt_id, prompts in side.items()}
        for side in asked
    ]
    judged = [prompt_id for prompt_id in image_ids if all(None not in side[prompt_id] for side in marks)]

    def tally(side: int) -> Tally:
        counts = {
            prompt_id: benchmark.count(
                prompt_id, answers[side][prompt_id], [item for item in marks[side][prompt_id] if item is not None]
            )
            for prompt_id in judged
        }
        rows = ((image_id, counts.get(prompt_id, {})) for prompt_id, image_id in image_ids.items())
        return tally_of(benchmark.count_names, rows)

    return tally(0), tally(1)


def mean(tallies: Sequence[Tally]) -> Tally:
    return replace(tallies[0], counts=np.mean([tally.counts for tally in tallies], axis=0))


def metrics_of(benchmark: JudgedBenchmark, repeats: Sequence[Sequence[Tally]]) -> dict[str, dict[str, list[Any]]]:
    """Metric -> side -> its value in each repeat, or None if it is undefined."""
    found: dict[str, dict[str, list[Any]]] = {}
    for of_repeat in repeats:
        for side, tally in zip(SIDES, of_repeat, strict=True):
            sums = dict(zip(tally.names, tally.counts.sum(axis=0), strict=True))
            for metric, value in benchmark.metrics(sums).items():
                found.setdefault(metric, {name: [] for name in SIDES})[side].append(share(float(value)))
    return found


def share(value: float) -> float | None:
    """The value, with None in place of nan, which JSON does not have."""
    return None if np.isnan(value) else value


def verdict_table(
    asked: Sequence[Mapping[str, Sequence[JudgePrompt]]], verdicts: Mapping[str, Sequence[Judgement]]
) -> pa.Table:
    rows = [
        {
            "model": side,
            "prompt_id": prompt_id,
            "part": part,
            "repeat": repeat,
            "marks": verdict.marks,
            "text": verdict.text,
        }
        for side, of_side in zip(SIDES, asked, strict=True)
        for prompt_id, prompts in of_side.items()
        for part, prompt in enumerate(prompts)
        for repeat, verdict in enumerate(verdicts[prompt.text])
    ]
    schema = pa.schema(
        [
            ("model", pa.string()),  # start or policy
            ("prompt_id", pa.string()),
            ("part", pa.int32()),  # the number of the judge prompt, if an answer has several
            ("repeat", pa.int32()),
            ("marks", pa.list_(pa.float64())),  # null if unjudged
            ("text", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema)
