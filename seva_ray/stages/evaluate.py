"""evaluate: starting model and policy on a benchmark -> the artifact `scores/<benchmark>/<policy>`.

Both models answer the same prompts through the generate stage. Every difference comes with its paired bootstrap
interval. Where questions are right or wrong, `outcomes.parquet` says which ones the policy gained and lost; where
answers name things, the counts say which ones were not there.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from seva_ray.artifacts import Artifact, Store
from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark, Tally, text_of
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.endpoint import Endpoint
from seva_ray.errors import ConfigError
from seva_ray.models import Model
from seva_ray.outcomes import Decides, NamesObjects, flips_of
from seva_ray.records import Response
from seva_ray.stages import metrics
from seva_ray.stages.generate import Generate, generate_all, read_responses
from seva_ray.stages.judge import SIDES, judge_recipe, judged_tallies
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.progress import say
from seva_ray.statistics import Comparison, paired_bootstrap
from seva_ray.storage import read_bytes, read_table, write_bytes, write_table

OUTCOME_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("start", pa.string()),  # the answer; null without one
        ("policy", pa.string()),
        ("start_right", pa.bool_()),
        ("policy_right", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How scores are compared."""

    num_resamples: int = 2000
    """Bootstrap resamples of the images."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.num_resamples < 100:
            raise ConfigError(f"num_resamples {self.num_resamples}: must be at least 100")


def prepare_benchmarks(
    config: Prepare, store: Store, benchmarks: Sequence[Benchmark | JudgedBenchmark]
) -> list[Artifact]:
    """The prompts of every benchmark."""
    return [prepare(config, store, benchmark.name, benchmark) for benchmark in benchmarks]


def evaluate(
    config: Evaluate,
    generation: Generate,
    store: Store,
    benchmarks: Sequence[Benchmark | JudgedBenchmark],
    prompts: Sequence[Artifact],
    start: Model,
    policy: Model,
    judge: Endpoint | None = None,
) -> list[Artifact]:
    """One score artifact per benchmark. Those that need the judge come last: whatever it does, the others are there."""
    work = [(model, artifact, CLEAN) for model in (start, policy) for artifact in prompts]
    responses = generate_all(generation, store, work)
    of_benchmarks = zip(benchmarks, prompts, responses[: len(prompts)], responses[len(prompts) :], strict=True)
    return [
        compare(config, store, *of_benchmark, policy.name, judge)
        for of_benchmark in sorted(of_benchmarks, key=lambda row: isinstance(row[0], JudgedBenchmark))
    ]


def compare(
    config: Evaluate,
    store: Store,
    benchmark: Benchmark | JudgedBenchmark,
    prompts: Artifact,
    start_responses: Artifact,
    policy_responses: Artifact,
    name: str,
    judge: Endpoint | None = None,
) -> Artifact:
    """The scores of `policy_responses` beside those of `start_responses`, as `scores/<benchmark>/<name>`."""
    recipe = {"evaluate": config, "benchmark": benchmark}
    if isinstance(benchmark, JudgedBenchmark):
        assert judge is not None, f"{benchmark.name} needs a judge"
        recipe |= judge_recipe(judge.judge, benchmark)
    artifact = store.open(f"scores/{benchmark.name}/{name}", config=recipe, inputs=[start_responses, policy_responses])
    if artifact.complete:
        return metrics.reused(artifact)
    responses = [
        {response.prompt_id: response for response in read_responses(prompts, of_model)}
        for of_model in (start_responses, policy_responses)
    ]
    counts: dict[str, Any] = {"protocol": benchmark.protocol}
    if isinstance(benchmark, JudgedBenchmark):
        assert judge is not None
        start, aligned, counts["judging"] = judged_tallies(judge, store, benchmark, artifact, responses)
    else:
        start, aligned = (benchmark.tally(of_model) for of_model in responses)
    if isinstance(benchmark, Decides):
        counts["flips"] = write_outcomes(artifact, benchmark, *responses)
    if isinstance(benchmark, NamesObjects):
        named = [Counter(chain.from_iterable(benchmark.hallucinated(of_model).values())) for of_model in responses]
        counts["hallucinated"] = dict(zip(SIDES, map(dict, named), strict=True))
    write_table(artifact.path("start.parquet"), tally_table(start))
    write_table(artifact.path("policy.parquet"), tally_table(aligned))
    comparisons = paired_bootstrap(
        start, aligned, benchmark.metrics, num_resamples=config.num_resamples, seed=config.seed
    )
    write_bytes(artifact.path("comparisons.json"), json.dumps([asdict(row) for row in comparisons], indent=1).encode())
    say(f"evaluate {benchmark.name}: {len(comparisons)} metrics on {len(start.image_ids):,} images")
    sizes = {"num_images": len(start.image_ids), "num_metrics": len(comparisons)}
    failed = failures(prompts, (start_responses, policy_responses), responses, fate_of("judging" in counts))
    return artifact.finish(sizes | failed | counts)


def write_outcomes(
    artifact: Artifact, benchmark: Decides, start: Mapping[str, Response], policy: Mapping[str, Response]
) -> dict[str, Any]:
    """The answers to every question that is right or wrong; its counts."""
    of_start, of_policy = benchmark.correct(start), benchmark.correct(policy)
    flips = flips_of(of_start, of_policy)
    rows = [
        {
            "prompt_id": prompt_id,
            "start": text_of(start, prompt_id),
            "policy": text_of(policy, prompt_id),
            "start_right": of_start[prompt_id],
            "policy_right": of_policy[prompt_id],
        }
        for prompt_id in of_start
    ]
    write_table(artifact.path("outcomes.parquet"), pa.Table.from_pylist(rows, OUTCOME_SCHEMA))
    return asdict(flips)


def failures(
    prompts: Artifact, artifacts: Sequence[Artifact], responses: Sequence[Mapping[str, Response]], fate: str
) -> dict[str, int]:
    """How many responses of each model failed; says so, and what becomes of them."""
    num_prompts = prompts.counts["num_prompts"]
    counts = {"num_prompts": num_prompts}
    for side, artifact, rows in zip(SIDES, artifacts, responses, strict=True):
        errors = [row.error for row in rows.values() if row.error is not None]
        errors += ["no response"] * (num_prompts - len(rows))
        counts[f"num_failed_{side}"] = len(errors)
        if errors:
            _, model, benchmark, _ = artifact.name.split("/")
            share = f"{len(errors):,} of {num_prompts:,} responses of {model}"
            say(f"evaluate {benchmark}: partial: {share} failed and {fate}; the first: {errors[0]}")
    return counts


def scores_of(store: Store, policy: str) -> list[Artifact]:
    """Those of every benchmark that the policy was evaluated on."""
    return [store.find(name) for name in store.names("scores") if name.endswith(f"/{policy}")]


def title_of(scores: Artifact) -> str:
    """The benchmark's name and its judge; where responses failed it says that its numbers are partial."""
    title, counts = scores.name.split("/")[1], scores.counts
    judged = "judging" in counts
    if judged:
        title += f", judged by {counts['judging']['judge']}"
    failed = [counts.get(f"num_failed_{side}", 0) for side in SIDES]
    if not any(failed):
        return title
    shares = f"{failed[0]:,} of start and {failed[1]:,} of policy"
    return f"{title}, partial: of {counts['num_prompts']:,} responses {shares} failed and {fate_of(judged)}"


def fate_of(judged: bool) -> str:
    """What becomes of responses that failed."""
    return "are judged as empty answers" if judged else "count as wrong"


def read_comparisons(artifact: Artifact) -> list[Comparison]:
    return [Comparison(**row) for row in json.loads(read_bytes(artifact.path("comparisons.json")))]


def read_tallies(scores: Artifact) -> tuple[Tally, Tally]:
    """Of the start and of the policy."""

    def read(side: str) -> Tally:
        table = read_table(scores.path(f"{side}.parquet"))
        names = [name for name in table.column_names if name != "image_id"]
        counts = np.stack([table[name].to_numpy() for name in names], axis=1)
        return Tally(image_ids=table["image_id"].to_pylist(), names=names, counts=counts)

    return read("start"), read("policy")


def tally_table(tally: Tally) -> pa.Table:
    columns = {name: tally.counts[:, place] for place, name in enumerate(tally.names)}
    return pa.table({"image_id": list(tally.image_ids)} | columns)
