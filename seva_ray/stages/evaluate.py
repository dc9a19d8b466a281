"""evaluate: starting model and policy on a benchmark -> the artifact `scores/<benchmark>/<policy>`.

Both models answer the same prompts through the generate stage. Every difference comes with its paired bootstrap
interval.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from seva_ray.artifacts import Artifact, Store
from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark, Tally
from seva_ray.errors import ConfigError
from seva_ray.models import Model
from seva_ray.stages.generate import Generate, generate_all, read_responses
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.progress import say
from seva_ray.statistics import Comparison, paired_bootstrap
from seva_ray.storage import read_bytes, read_table, write_bytes, write_table


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


def prepare_benchmarks(config: Prepare, store: Store, benchmarks: Sequence[Benchmark]) -> list[Artifact]:
    """The prompts of every benchmark."""
    return [prepare(config, store, benchmark.name, benchmark) for benchmark in benchmarks]


def evaluate(
    config: Evaluate,
    generation: Generate,
    store: Store,
    benchmarks: Sequence[Benchmark],
    prompts: Sequence[Artifact],
    start: Model,
    policy: Model,
) -> list[Artifact]:
    """One score artifact per benchmark."""
    work = [(model, artifact, CLEAN) for model in (start, policy) for artifact in prompts]
    responses = generate_all(generation, store, work)
    of_benchmarks = zip(benchmarks, prompts, responses[: len(prompts)], responses[len(prompts) :], strict=True)
    return [compare(config, store, *of_benchmark, policy.name) for of_benchmark in of_benchmarks]


def compare(
    config: Evaluate,
    store: Store,
    benchmark: Benchmark,
    prompts: Artifact,
    start_responses: Artifact,
    policy_responses: Artifact,
    name: str,
) -> Artifact:
    """The scores of `policy_responses` beside those of `start_responses`, as `scores/<benchmark>/<name>`."""
    artifact = store.open(
        f"scores/{benchmark.name}/{name}",
        config={"evaluate": config, "benchmark": benchmark},
        inputs=[start_responses, policy_responses],
    )
    if artifact.complete:
        return artifact
    answered = [
        {response.prompt_id: response for response in read_responses(prompts, responses)}
        for responses in (start_responses, policy_responses)
    ]
    start, aligned = map(benchmark.tally, answered)
    write_table(artifact.path("start.parquet"), tally_table(start))
    write_table(artifact.path("policy.parquet"), tally_table(aligned))
    comparisons = paired_bootstrap(
        start, aligned, benchmark.metrics, num_resamples=config.num_resamples, seed=config.seed
    )
    write_bytes(artifact.path("comparisons.json"), json.dumps([asdict(row) for row in comparisons], indent=1).encode())
    say(f"evaluate {benchmark.name}: {len(comparisons)} metrics on {len(start.image_ids):,} images")
    num_prompts = prompts.counts["num_prompts"]
    counts = {"num_images": len(start.image_ids), "num_metrics": len(comparisons), "num_prompts": num_prompts}
    for of, responses, rows in zip(("start", "policy"), (start_responses, policy_responses), answered, strict=True):
        errors = [row.error for row in rows.values() if row.error is not None]
        errors += ["no response"] * (num_prompts - len(rows))
        counts[f"num_failed_{of}"] = len(errors)
        if errors:
            model = responses.name.split("/")[1]
            share = f"{len(errors):,} of {num_prompts:,} responses of {model}"
            say(f"evaluate {benchmark.name}: partial: {share} failed and count as wrong; the first: {errors[0]}")
    return artifact.finish(counts | {"protocol": benchmark.protocol})


def title_of(artifact: Artifact) -> str:
    """The benchmark's name; where responses failed it says that its numbers are partial."""
    name, counts = artifact.name.split("/")[1], artifact.counts
    failed = [counts.get(f"num_failed_{of}", 0) for of in ("start", "policy")]
    if not any(failed):
        return name
    shares = f"{failed[0]:,} of start and {failed[1]:,} of policy"
    return f"{name}, partial: of {counts['num_prompts']:,} responses {shares} failed and count as wrong"


def scores_of(store: Store, policy: str) -> list[Artifact]:
    """Those of every benchmark that the policy was evaluated on."""
    return [store.find(name) for name in store.names("scores") if name.endswith(f"/{policy}")]


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
