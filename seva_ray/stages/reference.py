"""reference: pairs + starting model -> the artifact `logps/<pairs>/<dtype>`: what the model says of every response.

DPO compares the policy with these numbers at every step. They follow from the pair and the starting model alone, so
they are computed once, by the code that training uses, and are shared by every beta, loss and learning rate.
A shard's file is committed in one step: a restart computes only what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from seva_ray.artifacts import Artifact, Store
from seva_ray.dpo import Train, num_response_tokens
from seva_ray.errors import InputError
from seva_ray.models import Model
from seva_ray.stages import metrics
from seva_ray.stages.cluster import join
from seva_ray.stages.pair import lineage
from seva_ray.stages.places import TRAINING, check_places, has_gpus, kind, options
from seva_ray.stages.pool import rows_of, told
from seva_ray.stages.progress import Progress, say
from seva_ray.stages.shards import read_each, shards_in
from seva_ray.storage import local_directory, names_in, read_table, write_table
from seva_ray.units import PAIRS_PER_UNIT

LOGPS_SCHEMA = pa.schema([("prompt_id", pa.string()), ("ref_logps", pa.list_(pa.float32()))])
"""Of each pair, in its order: natural log, summed over the tokens of the chosen and of each rejected response."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model has read when it scores a response: the same as when it was generated."""

    directory: str
    system: str
    image_root: str | None
    max_image_pixels: int


def reading_of(model: Model, prompts: Artifact, chosen: Artifact) -> Reading:
    recipe = chosen.recipe["config"]
    return Reading(
        directory=model.directory,
        system=recipe["system"],
        image_root=prompts.counts["image_root"],
        max_image_pixels=recipe["max_image_pixels"],
    )


def open_logps(config: Train, store: Store, model: Model, pairs: Artifact) -> Artifact:
    return store.open(
        f"logps/{pairs.name.removeprefix('pairs/')}/{config.dtype}{'' if config.shared_prefix else '-plain'}",
        config={"model": model.fingerprint, "dtype": config.dtype, "shared_prefix": config.shared_prefix},
        inputs=[pairs],
    )


def reference(config: Train, store: Store, model: Model, pairs: Artifact) -> Artifact:
    """The reference log-probabilities of `pairs`. Its count `plain_because` says why the prefix cannot be shared.

    Raises: InputError where there are no pairs, as those of a control view may be.
    """
    name, artifact = pairs.name.removeprefix("pairs/"), open_logps(config, store, model, pairs)
    if artifact.complete:
        return metrics.reused(artifact)
    prompts, chosen, _ = lineage(store, pairs)
    num_pairs = pairs.counts["verdicts"]["kept"]
    if not num_pairs:
        raise InputError(f"{pairs.name}: there is no pair in it to train on")
    done = names_in(artifact.uri)
    shards = shards_in(pairs.path("pairs"))
    missing = [shard for shard in shards if shard not in done] or shards[:1]  # one tells of the shared prefix
    size = max(1, PAIRS_PER_UNIT * len(shards) // num_pairs)
    units = [missing[start : start + size] for start in range(0, len(missing), size)]
    say(f"reference {name}: {len(missing):,} shards to do")
    join()
    need = worker_need()
    check_places(("what computes the reference", 1, need))
    rows = rows_of(
        lambda: ray.data.from_items(
            [{"shards": " ".join(some)} for some in units], override_num_blocks=len(units)
        ).map_batches(
            Scorer,
            batch_size=1,
            **options(need),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=config.num_workers),
            fn_constructor_args=(config, reading_of(model, prompts, chosen), pairs, artifact),
        )
    )
    progress = Progress("reference", len(missing), "shards")
    reasons = set()
    for row in rows:
        reasons.add(row["plain_because"])
        progress.add(int(row["num_shards"]))
    reason = next((reason for reason in sorted(reasons) if reason), None)
    if reason:
        say(f"reference {name}: image and question are computed once per response, not per pair: {reason}")
    return artifact.finish({"num_pairs": num_pairs, "plain_because": reason})


def worker_need() -> dict[str, float]:
    """What a training worker takes of its node; the same for the reference, whose numbers must be training's own."""
    return ({"CPU": 0, "GPU": 1} if has_gpus() else {"CPU": 1}) | kind(TRAINING)


class Scorer:
    """Ray Data's actor: the starting model, in training's precision."""

    @told()
    def __init__(self, config: Train, reading: Reading, pairs: Artifact, artifact: Artifact):
        from seva_ray.encoding import Encoder
        from seva_ray.policy import load_model
        from seva_ray.views import Viewer

        directory = local_directory(reading.directory)
        self.config, self.pairs, self.artifact = config, pairs, artifact
        self.model = load_model(directory, config.dtype).eval()
        self.model.to("cuda" if ray.get_gpu_ids() else "cpu")
        self.viewer = Viewer(
            encoder=Encoder(directory, reading.system),
            image_root=reading.image_root,
            max_pixels=reading.max_image_pixels,
        )
        self.plain_because: str | None = None if config.shared_prefix else "shared_prefix is off"
        self.tried = not config.shared_prefix

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shards = batch["shards"][0].split()
        for shard in shards:
            self.commit(shard)
        return {"plain_because": [self.plain_because or ""], "num_shards": [len(shards)]}

    def commit(self, shard: str) -> None:
        """One shard's file."""
        from seva_ray.preferences import packing_fails

        table = read_table(self.pairs.path("pairs", shard))
        rows = table.to_pylist()
        if rows and not self.tried:
            self.plain_because, self.tried = packing_fails(self.model, self.viewer, rows[:2]), True
        order = sorted(range(len(rows)), key=num_response_tokens(table).tolist().__getitem__)
        found: dict[str, list[float]] = {}
        for start in range(0, len(order), self.config.per_device_batch_size):
            some = [rows[place] for place in order[start : start + self.config.per_device_batch_size]]
            found |= {row["prompt_id"]: logps for row, logps in zip(some, self.score(some), strict=True)}
        scored = [{"prompt_id": row["prompt_id"], "ref_logps": found[row["prompt_id"]]} for row in rows]
        write_table(self.artifact.path(shard), pa.Table.from_pylist(scored, LOGPS_SCHEMA))

    def score(self, rows: Sequence[dict[str, Any]]) -> list[list[float]]:
        import torch

        from seva_ray.preferences import PreferenceCollator, response_logps

        batch = PreferenceCollator(viewer=self.viewer, packed=self.plain_because is None)(rows)
        with torch.no_grad():
            logps = response_logps(self.model, {name: values.to(self.model.device) for name, values in batch.items()})
        return [row[: 1 + len(pair["rejected"])] for row, pair in zip(logps.tolist(), rows, strict=True)]


def with_reference(pairs: pa.Table, logps: Artifact) -> pa.Table:
    """The pairs with their column `ref_logps`."""
    scored = pa.concat_tables(read_each(read_table, [logps.path(shard) for shard in shards_in(logps.uri)]))
    assert scored["prompt_id"].equals(pairs["prompt_id"]), f"{logps.name} is not of these pairs"
    return pairs.append_column("ref_logps", scored["ref_logps"])
