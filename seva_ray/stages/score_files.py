"""The files of a comparison of two models on a benchmark: tallies of both, and every metric with its interval.

The artifacts `scores/<benchmark>/<policy>` (evaluate.py), `repeats/...` (repeats.py) and `consistency/...`
(consistency.py) hold them. In and out: plain data.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from seva_ray.benchmarks.base import Tally
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.storage import read_bytes, read_table, write_bytes, write_table
from seva_ray.scoring.intervals import Comparison, Repeated
from seva_ray.stages.judge import SIDES
from seva_ray.vlm.models import Model

Contest = tuple[Model, Model]
"""The starting model, then the policy that was trained from it."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How scores are compared."""

    kind: ClassVar[str] = "Evaluate"

    num_resamples: int = 2000
    """Number of bootstrap resamples of the images, at least 100."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        check_least(self, 100, "num_resamples")


def scores_of(store: Store, policy: str) -> list[Artifact]:
    """The scores of every benchmark that the policy was evaluated on."""
    return [store.find(name) for name in store.names("scores") if name.endswith(f"/{policy}")]


def benchmark_of(scores: Artifact) -> str:
    return scores.name.split("/")[1]


def title_of(scores: Artifact) -> str:
    """The benchmark's name and its judge. If responses failed, the title says that the numbers are partial."""
    title, counts = benchmark_of(scores), scores.counts
    judged = "judging" in counts
    if judged:
        title += f", judged by {counts['judging']['judge']}"
    if "policies" in counts:
        title += f", over {len(counts['policies'])} policies"
    failed = [counts.get(f"num_failed_{side}", 0) for side in SIDES]
    if not any(failed):
        return title
    shares = f"{failed[0]:,} of start and {failed[1]:,} of policy"
    return f"{title}, partial: of {counts['num_prompts']:,} responses {shares} failed and {fate_of(judged)}"


def protocol_of(scores: Artifact) -> str:
    """The name of the way of asking and scoring. For a judged benchmark it includes the judge and the hash of its
    prompt, because other judges and prompts give other numbers."""
    protocol, judging = scores.counts.get("protocol", ""), scores.counts.get("judging")
    if not judging:
        return protocol
    return f"{protocol} {judging['prompt_hash']}, judged by {judging['judge']}"


def fate_of(judged: bool) -> str:
    """What becomes of responses that failed."""
    return "are judged as empty answers" if judged else "count as wrong"


def write_comparisons(artifact: Artifact, rows: Sequence[Comparison]) -> None:
    write_bytes(artifact.path("comparisons.json"), json.dumps([asdict(row) for row in rows], indent=1).encode())


def read_comparisons(artifact: Artifact) -> list[Comparison]:
    """The metrics of a comparison. Metrics over several policies are `Repeated`."""
    rows = json.loads(read_bytes(artifact.path("comparisons.json")))
    return [
        Repeated(**row | {"differences": tuple(row["differences"])}) if "differences" in row else Comparison(**row)
        for row in rows
    ]


def write_tallies(artifact: Artifact, start: Tally, policy: Tally) -> None:
    for side, tally in zip(SIDES, (start, policy), strict=True):
        write_table(artifact.path(f"{side}.parquet"), tally_table(tally))


def tally_table(tally: Tally) -> pa.Table:
    """One row for each image."""
    columns = {name: tally.counts[:, place] for place, name in enumerate(tally.names)}
    return pa.table({"image_id": pa.array(tally.image_ids, pa.string())} | columns)


def read_tallies(scores: Artifact) -> tuple[Tally, Tally]:
    """The tallies of the starting model and of the policy."""

    def read(side: str) -> Tally:
        table = read_table(scores.path(f"{side}.parquet"))
        names = [name for name in table.column_names if name != "image_id"]
        counts = np.stack([table[name].to_numpy() for name in names], axis=1)
        return Tally(image_ids=table["image_id"].to_pylist(), names=names, counts=counts)

    return read("start"), read("policy")
