"""repeats: the scores of several policies of one setting together -> the artifact `repeats/<benchmark>/<name>`.

Policies of one setting differ in the seed of their training, and perhaps in the model that they started from. In: the
scores of each, on the same questions. Out: the mean difference of every metric, the difference of each policy, and an
interval that covers both the choice of images and the choice of repeats. If questions are right or wrong, McNemar's
test for clusters is added.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from seva_ray.benchmarks.base import Benchmark, protocol_of
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import read_table
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.scoring.intervals import Repeated, repeated_bootstrap
from seva_ray.scoring.right_wrong import repeated_flips
from seva_ray.stages.judge import SIDES
from seva_ray.stages.score_files import Evaluate, read_tallies, write_comparisons


def repeats(
    config: Evaluate, store: Store, benchmark: Benchmark | JudgedBenchmark, scores: Sequence[Artifact], name: str
) -> Artifact:
    """Combine `scores`, which has one artifact for each policy."""

    def opened() -> Artifact:
        recipe = {"evaluate": config}
        return store.open(f"repeats/{benchmark.name}/{name}", config=recipe, inputs=scores, later_is_new=True)

    return made_once(store, opened, lambda artifact: combined(config, artifact, benchmark, scores), counted=False)


def combined(
    config: Evaluate, artifact: Artifact, benchmark: Benchmark | JudgedBenchmark, scores: Sequence[Artifact]
) -> Artifact:
    """Combine the scores, while no other job does it."""
    rows = repeated(config, benchmark, scores)
    artifact = artifact.begin()
    write_comparisons(artifact, rows)
    counts: dict[str, Any] = {
        "policies": [item.name.rsplit("/", 1)[-1] for item in scores],
        "protocol": protocol_of(benchmark),
        "num_images": scores[0].counts["num_images"],
        "num_metrics": len(rows),
        "num_failed": sum(item.counts.get(f"num_failed_{side}", 0) for item in scores for side in SIDES),
    }
    if isinstance(benchmark, JudgedBenchmark):
        counts["judging"] = {key: scores[0].counts["judging"][key] for key in ("judge", "prompt_hash")}
    if all("flips" in item.counts for item in scores):  # scores of older versions may have no flips
        image_of = {prompt.prompt_id: prompt.image_id for prompt in benchmark.prompts()}
        counts["flips"] = asdict(repeated_flips([read_outcomes(item) for item in scores], image_of))
    say(f"evaluate {benchmark.name}: {len(rows)} metrics over {len(scores)} policies")
    return artifact.finish(counts)


def repeated(config: Evaluate, benchmark: Benchmark | JudgedBenchmark, scores: Sequence[Artifact]) -> list[Repeated]:
    """The metrics, with every policy compared with its own starting model."""
    starts, policies = zip(*(read_tallies(item) for item in scores), strict=True)
    return repeated_bootstrap(starts, policies, benchmark.metrics, num_resamples=config.num_resamples, seed=config.seed)


def read_outcomes(scores: Artifact) -> tuple[dict[str, bool], dict[str, bool]]:
    """Whether start and policy are right, by prompt_id."""
    table = read_table(scores.path("outcomes.parquet"))
    start, policy = (
        dict(zip(table["prompt_id"].to_pylist(), table[f"{side}_right"].to_pylist(), strict=True)) for side in SIDES
    )
    return start, policy


def repeats_of(store: Store, policy: str) -> list[Artifact]:
    """The repeats that a policy is part of."""
    found = (store.find(name) for name in store.names("repeats"))
    return [artifact for artifact in found if policy in artifact.counts["policies"]]
