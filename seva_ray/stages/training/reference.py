"""reference: pairs + starting model -> the artifact `logps/<pairs>/<dtype>`: the log-probability of every response.

DPO compares the policy with these numbers at every step. They depend only on the pair and the starting model, so they
are computed once, by the code that training uses, and every beta, loss and learning rate shares them.
A shard's file is committed in one step, so a restart computes only the missing shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.node_cache import local_directory
from seva_ray.core.ownership import owned
from seva_ray.core.shards import read_each, shards_in
from seva_ray.core.storage import read_table, write_table
from seva_ray.core.system_texts import SYSTEM_TEXTS
from seva_ray.core.verification import whole_shards
from seva_ray.dpo.config import Train, num_response_tokens
from seva_ray.engines.units import PAIRS_PER_UNIT
from seva_ray.pairs.files import lineage
from seva_ray.runtime import metrics
from seva_ray.runtime.actors import rows_of, told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import Progress, say
from seva_ray.runtime.renewal import to_be_made
from seva_ray.runtime.resources import TRAINING, Need, capacity, check_places, has_gpus, kind, nodes, options, total
from seva_ray.runtime.sizing import num_workers, workers_at_once
from seva_ray.vlm.models import Model

LOGPS_SCHEMA = pa.schema([("prompt_id", pa.string()), ("ref_logps", pa.list_(pa.float32()))])
"""One row per pair. `ref_logps` holds the natural log-probability of the chosen and then of each rejected response,
summed over the response's tokens."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model reads before a response that it scores: the same as when the response was generated, except for the
    system text if `train.system` names another one."""

    directory: str
    system: str
    image_root: str | None
    max_image_pixels: int


def reading_of(config: Train, model: Model, prompts: Artifact, chosen: Artifact) -> Reading:
    recipe = chosen.recipe["config"]
    return Reading(
        directory=model.directory,
        system=SYSTEM_TEXTS.get(config.system, recipe["system"]),
        image_root=prompts.counts["image_root"],
        max_image_pixels=recipe["max_image_pixels"],
    )


def open_logps(config: Train, store: Store, model: Model, pairs: Artifact) -> Artifact:
    own = config.system != "generation"
    computed = config.dtype + ("" if config.shared_prefix else "-plain") + (f"-{config.system}" if own else "")
    recipe = {"model": model.fingerprint, "dtype": config.dtype, "shared_prefix": config.shared_prefix}
    return store.open(
        f"logps/{pairs.name.removeprefix('pairs/')}/{computed}",
        config=recipe | ({"system": config.system} if own else {}),
        inputs=[pairs],
        later_is_new=True,
        made_from={model.name: model.contents},
    )


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One artifact of log-probabilities that is to be made."""

    reading: Reading
    pairs: Artifact
    logps: Artifact
    shards: Sequence[str]
    """Names of the missing shards."""
    shards_per_unit: int


def reference(config: Train, store: Store, model: Model, pairs: Artifact) -> Artifact:
    """The same as `references`, for one model and its pairs."""
    (artifact,) = references(config, store, [(model, pairs)])
    return artifact


def references(config: Train, store: Store, work: Sequence[tuple[Model, Artifact]]) -> list[Artifact]:
    """The reference log-probabilities of each model's pairs. One pool of workers computes them all. If the prefix
    cannot be shared, the artifact's count `plain_because` says why.

    Raises: InputError if an artifact has no pairs, which can happen with a control view.
    """
    made = [open_logps(config, store, model, pairs) for model, pairs in work]
    with owned(store.root, [artifact.name for artifact in made if not artifact.complete]):
        return references_alone(config, store, work)


def references_alone(config: Train, store: Store, work: Sequence[tuple[Model, Artifact]]) -> list[Artifact]:
    """The same as `references`, while no other job makes any of these artifacts."""
    made = [open_logps(config, store, model, pairs) for model, pairs in work]
    missing = [place for place, artifact in enumerate(made) if not artifact.complete]
    made = [to_be_made(artifact) if place in missing else artifact for place, artifact in enumerate(made)]
    to_score = [scoring(config, store, *work[place], made[place]) for place in missing]
    reasons = score_all(to_score, config) if missing else []
    for place, reason in zip(missing, reasons, strict=True):
        counts = {"num_pairs": work[place][1].counts["verdicts"]["kept"], "plain_because": reason}
        made[place] = made[place].finish(counts)
    return [artifact if place in missing else metrics.reused(artifact) for place, artifact in enumerate(made)]


def scoring(config: Train, store: Store, model: Model, pairs: Artifact, logps: Artifact) -> Scoring:
    prompts, chosen, _ = lineage(store, pairs)
    num_pairs = pairs.counts["verdicts"]["kept"]
    if not num_pairs:
        raise InputError(f"{pairs.name}: there is no pair in it to train on")
    shards = shards_in(pairs.path("pairs"))
    done = whole_shards(logps.uri, pairs.path("pairs")) if logps.begun else set()
    return Scoring(
        reading=reading_of(config, model, prompts, chosen),
        pairs=pairs,
        logps=logps,
        shards=[shard for shard in shards if shard not in done] or shards[:1],  # one shard tests the shared prefix
        shards_per_unit=max(1, PAIRS_PER_UNIT * len(shards) // num_pairs),
    )


def units_of(place: int, scoring: Scoring) -> list[dict[str, Any]]:
    """The missing shards of the scoring at index `place`, as units of work."""
    size = scoring.shards_per_unit
    starts = range(0, len(scoring.shards), size)
    return [{"place": place, "shards": " ".join(scoring.shards[start : start + size])} for start in starts]


def score_all(scorings: Sequence[Scoring], config: Train) -> list[str | None]:
    """Commit all missing shards. Return for each scoring why its prefix cannot be shared, or None."""
    names = [scoring.pairs.name.removeprefix("pairs/") for scoring in scorings]
    units = [unit for place, scoring in enumerate(scorings) for unit in units_of(place, scoring)]
    num_shards = sum(len(scoring.shards) for scoring in scorings)
    say(f"reference {', '.join(names)}: {num_shards:,} shards to do")
    import ray.data

    join()
    need = worker_need()
    check_places(Need("the worker that computes the reference", 1, need))
    there = capacity()
    most = num_workers(config, there)
    at_once = min(most, workers_at_once(config, there, total(nodes())), len(units))
    rows = rows_of(
        lambda: ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
            Scorer,
            batch_size=1,
            **options(need),
            compute=ray.data.ActorPoolStrategy(min_size=at_once, max_size=most),
            fn_constructor_args=(config, list(scorings)),
        ),
        first="reference: waiting for a worker to load the model and score the first pairs",
        others="reference: waiting for the next pairs",
    )
    progress = Progress("reference", num_shards, "shards")
    reasons: list[str | None] = [None] * len(scorings)
    for row in rows:
        reasons[row["place"]] = row["plain_because"] or reasons[row["place"]]
        progress.add(int(row["num_shards"]))
    for name, reason in zip(names, reasons, strict=True):
        if reason:
            say(f"reference {name}: image and question are computed once per response, not per pair: {reason}")
    return reasons


def worker_need() -> dict[str, float]:
    """The resources that a training worker takes of its node. The reference takes the same, so that both compute the
    same numbers."""
    return ({"CPU": 0, "GPU": 1} if has_gpus() else {"CPU": 1}) | kind(TRAINING)


class Scorer:
    """The actor of Ray Data that scores pairs with one starting model at a time, in the precision of training."""

    @told()
    def __init__(self, config: Train, scorings: Sequence[Scoring]):
        self.config, self.scorings = config, scorings
        self.place: int | None = None
        self.model: Any = None
        self.plain_because: str | None = None
        self.tried = False

    @told()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        place, shards = int(batch["place"][0]), batch["shards"][0].split()
        if self.place != place:
            self.take(self.scorings[place])
            self.place = place
        for shard in shards:
            self.commit(shard)
        return {"place": [place], "plain_because": [self.plain_because or ""], "num_shards": [len(shards)]}

    def take(self, scoring: Scoring) -> None:
        """Load another model, to score its pairs."""
        import ray

        from seva_ray.dpo.policy import load_model
        from seva_ray.vlm.encoding import Encoder
        from seva_ray.vlm.views import Viewer

        reading = scoring.reading
        directory = local_directory(reading.directory)
        self.model = None  # frees the old model first: two large models may not fit into memory
        self.model = load_model(directory, self.config.dtype).eval()
        self.model.to("cuda" if ray.get_gpu_ids() else "cpu")
        self.viewer = Viewer(
            encoder=Encoder(directory, reading.system),
            image_root=reading.image_root,
            max_pixels=reading.max_image_pixels,
        )
        self.pairs, self.logps = scoring.pairs, scoring.logps
        self.plain_because = None if self.config.shared_prefix else "shared_prefix is off"
        self.tried = False

    def commit(self, shard: str) -> None:
        """Score the pairs of one shard and write its file."""
        from seva_ray.dpo.layout_check import check_layouts

        table = read_table(self.pairs.path("pairs", shard))
        rows = table.to_pylist()
        if rows and not self.tried:
            reason = check_layouts(self.model, self.viewer, rows[:2], packed=self.config.shared_prefix)
            self.plain_because, self.tried = self.plain_because or reason, True
        order = sorted(range(len(rows)), key=num_response_tokens(table).tolist().__getitem__)
        found: dict[str, list[float]] = {}
        for start in range(0, len(order), self.config.per_device_batch_size):
            some = [rows[place] for place in order[start : start + self.config.per_device_batch_size]]
            found |= {row["prompt_id"]: logps for row, logps in zip(some, self.score(some), strict=True)}
        scored = [{"prompt_id": row["prompt_id"], "ref_logps": found[row["prompt_id"]]} for row in rows]
        self.logps.begin()
        write_table(self.logps.path(shard), pa.Table.from_pylist(scored, LOGPS_SCHEMA))

    def score(self, rows: Sequence[dict[str, Any]]) -> list[list[float]]:
        import torch

        from seva_ray.dpo.batch import PreferenceCollator
        from seva_ray.dpo.logps import response_logps

        batch = PreferenceCollator(viewer=self.viewer, packed=self.plain_because is None)(rows)
        with torch.no_grad():
            logps = response_logps(self.model, {name: values.to(self.model.device) for name, values in batch.items()})
        return [row[: 1 + len(pair["rejected"])] for row, pair in zip(logps.tolist(), rows, strict=True)]


def with_reference(pairs: pa.Table, logps: Artifact) -> pa.Table:
    """The pairs with the column `ref_logps` added."""
    scored = pa.concat_tables(read_each(read_table, [logps.path(shard) for shard in shards_in(logps.uri)]))
    assert scored["prompt_id"].equals(pairs["prompt_id"]), f"{logps.name} is not of these pairs"
    return pairs.append_column("ref_logps", scored["ref_logps"])
