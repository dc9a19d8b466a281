"""score_parts: both models' answers to a benchmark, part by part -> the files and counts of the scores' artifact.

A benchmark of many questions that comes in parts (`InParts`) is read and scored some thousand questions at a time. Any
other is a single part.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa

from seva_ray.benchmarks.base import Benchmark, InParts, Tally, text_of
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response
from seva_ray.core.table_writer import table_writer
from seva_ray.runtime.progress import say
from seva_ray.scoring.paired_tallies import PairedTallies
from seva_ray.scoring.right_wrong import AsksInParts, Decides, Flips, NamesObjects, outcomes_of
from seva_ray.stages.generate import read_responses
from seva_ray.stages.judge import SIDES
from seva_ray.stages.score_files import tally_table

Answers = Mapping[str, Response]
"""A model's responses, by prompt_id."""

SCORED = ("prompt_id", "text", "finish_reason", "error")
"""The columns of responses that scores are made from. Token ids would take most of the memory."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("start", pa.string()),  # the answer, or null if there is none
        ("policy", pa.string()),
        ("start_right", pa.bool_()),
        ("policy_right", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some or all questions of a benchmark, with what both models answered: first the start, then the policy."""

    benchmark: Benchmark | JudgedBenchmark
    answers: Sequence[Answers]
    tallies: tuple[Tally, Tally]


def all_answers(prompts: Artifact, of_models: Sequence[Artifact]) -> list[Answers]:
    return [
        {response.prompt_id: response for response in read_responses(prompts, of_model, SCORED)}
        for of_model in of_models
    ]


def parts_of(benchmark: InParts, prompts: Artifact, of_models: Sequence[Artifact]) -> Iterator[Part]:
    """Raises: InputError if the answers do not stand in the order of the benchmark's questions."""
    streams = [read_responses(prompts, of_model, SCORED) for of_model in of_models]
    for part in benchmark.parts():
        asked = {prompt.prompt_id for prompt in part.prompts()}
        found = [taken(stream, asked) for stream in streams]
        answers, streams = [answered for answered, _ in found], [stream for _, stream in found]
        start, policy = (part.tally(of_model) for of_model in answers)
        yield Part(benchmark=part, answers=answers, tallies=(start, policy))
    for stream, of_model in zip(streams, of_models, strict=True):
        if left := next(stream, None):
            raise InputError(
                f"{of_model.uri}: the benchmark does not ask {left.prompt_id}, or asks it earlier; remove {prompts.uri}"
            )


def taken(stream: Iterator[Response], asked: set[str]) -> tuple[dict[str, Response], Iterator[Response]]:
    """The next responses, as long as they are to questions in `asked`; and those that follow."""
    found: dict[str, Response] = {}
    while len(found) < len(asked) and (response := next(stream, None)):
        if response.prompt_id not in asked:
            return found, chain([response], stream)
        found[response.prompt_id] = response
    return found, stream


@dataclass(kw_only=True)
class Failed:
    """How many responses of a model there are, and how many of them failed."""

    num_rows: int = 0
    num_failed: int = 0
    first_error: str = ""

    def add(self, answers: Answers) -> None:
        self.num_rows += len(answers)
        for response in answers.values():
            if response.error is not None:
                self.first_error = self.first_error if self.num_failed else response.error
                self.num_failed += 1


@dataclass(kw_only=True)
class Scored:
    """What was found in all parts."""

    tallies: PairedTallies = field(default_factory=PairedTallies)
    outcomes: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """How many questions there are in which start and policy are right or wrong."""
    named: list[Counter[str]] | None = None
    """Of each model, how often it names an object that is not there. None if the benchmark does not know objects."""
    failed: list[Failed] = field(default_factory=lambda: [Failed() for _ in SIDES])

    def add(self, part: Part) -> None:
        self.tallies.add(*part.tallies)
        for failed, answers in zip(self.failed, part.answers, strict=True):
            failed.add(answers)
        if isinstance(part.benchmark, NamesObjects):
            self.named = self.named or [Counter() for _ in SIDES]
            for named, answers in zip(self.named, part.answers, strict=True):
                named.update(chain.from_iterable(part.benchmark.hallucinated(answers).values()))

    def counts(self, decides: bool) -> dict[str, Any]:
        """Counts of what only some benchmarks have: answers that are right or wrong, and objects that are not there."""
        found = {"flips": asdict(Flips.of(self.outcomes))} if decides else {}
        return found | ({"hallucinated": dict(zip(SIDES, map(dict, self.named), strict=True))} if self.named else {})

    def failures(self, prompts: Artifact, of_models: Sequence[Artifact], fate: str) -> dict[str, int]:
        """Count each model's failed responses. If there are any, print how many and what becomes of them."""
        num_prompts = prompts.counts["num_prompts"]
        counts = {"num_prompts": num_prompts}
        for side, artifact, failed in zip(SIDES, of_models, self.failed, strict=True):
            number = failed.num_failed + num_prompts - failed.num_rows
            counts[f"num_failed_{side}"] = number
            if number:
                _, model, benchmark, _ = artifact.name.split("/")
                error = failed.first_error if failed.num_failed else "no response"
                share = f"{number:,} of {num_prompts:,} responses of {model}"
                say(f"evaluate {benchmark}: partial: {share} failed and {fate}; first error: {error}")
        return counts


def write_scores(artifact: Artifact, parts: Iterable[Part]) -> Scored:
    """Write the counts of every image, and both models' answers to every question that is either right or wrong."""
    scored = Scored()
    with ExitStack() as stack:
        files = [stack.enter_context(table_writer(artifact.path(f"{side}.parquet"))) for side in SIDES]
        outcomes = stack.enter_context(table_writer(artifact.path("outcomes.parquet")))
        for part in parts:
            scored.add(part)
            for file, tally in zip(files, part.tallies, strict=True):
                file.add(tally_table(tally))
            if isinstance(part.benchmark, Decides):
                outcomes.add(outcome_table(part.benchmark, part.answers, scored.outcomes))
    return scored


def outcome_table(benchmark: Decides, answers: Sequence[Answers], outcomes: Counter[tuple[bool, bool]]) -> pa.Table:
    """One row for each question. They are counted in `outcomes`."""
    right = [benchmark.correct(of_model) for of_model in answers]
    outcomes.update(outcomes_of(*right))
    answer_of = benchmark.told if isinstance(benchmark, AsksInParts) else text_of
    ids = list(right[0])
    columns: dict[str, list[Any]] = {"prompt_id": ids}
    columns |= {side: [answer_of(of_model, name) for name in ids] for side, of_model in zip(SIDES, answers)}
    columns |= {f"{side}_right": [of_model[name] for name in ids] for side, of_model in zip(SIDES, right)}
    return pa.table(columns, OUTCOME_SCHEMA)
