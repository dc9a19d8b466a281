"""margins: a policy + pairs -> the artifact `margins/<pairs>/<policy>-of-<number>`: log-probabilities after training.

The reference log-probabilities say how likely the starting model finds both answers of a pair. These are the same by
the policy, made by the same code, and have the same form: so the margin of a pair is known before and after training.
Of many pairs a sample is scored. It consists of whole shards, which a hash of their names chooses, so the cost does
not grow with the number of pairs. Each shard is one file, and a restart scores only the missing ones.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.fingerprints import execution
from seva_ray.core.outlines import local_outline
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import shards_in
from seva_ray.core.verification import num_rows
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.shard_pool import run_shards
from seva_ray.stages.training.reference import Scorer, Scoring, computed_as, scoring
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import model_of

AS_TRAINED = ("dtype", "system", "strip_questions")
"""The settings of a training that change log-probabilities. A policy's recipe has those that were not the default."""


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How the margins of pairs by a policy are measured."""

    kind: ClassVar[str] = "Margins"

    num_pairs: int = 1000
    """Score whole shards of pairs until they have at least this number of pairs. 0: all shards."""
    batch_size: int = execution(4)
    """Number of pairs in one forward pass."""

    def __post_init__(self) -> None:
        check_least(self, 0, "num_pairs")
        check_least(self, 1, "batch_size")


def margins(config: Margins, store: Store, pairs: Artifact, policy: Artifact) -> Artifact:
    """The log-probabilities of both answers of some pairs by the policy, in the precision of its training.

    Raises: InputError if there are no pairs, if the policy cannot be scored exactly, or if no worker has a place.
    """

    def made(artifact: Artifact) -> Artifact:
        work = work_of(config, store, pairs, policy, artifact)
        shards = work.scoring.shards
        run_shards(f"margins by {model_of(policy).name}", Generate(), work, artifact, pairs.path("pairs"), shards)
        number = sum(num_rows(artifact.path(shard)) for shard in shards)
        counts = {"num_pairs": number, "policy": model_of(policy).name, "computed": computed_as(work.config)}
        return artifact.finish(counts)

    return made_once(store, lambda: open_margins(config, store, pairs, policy), made)


def open_margins(config: Margins, store: Store, pairs: Artifact, policy: Artifact) -> Artifact:
    name = f"{family_of(pairs)}/{model_of(policy).name}-of-{config.num_pairs or 'all'}"
    return store.open(name, config={"margins": config}, inputs=[pairs, policy], later_is_new=True)


def work_of(config: Margins, store: Store, pairs: Artifact, policy: Artifact, artifact: Artifact) -> "MarginWork":
    """What is to be scored. The policy reads what it read in its training."""
    trained = policy.recipe["config"]["train"]
    as_trained = {key: trained[key] for key in AS_TRAINED if key in trained}
    size = config.batch_size
    train = Train(global_batch_size=size, per_device_batch_size=size, **as_trained)
    every = scoring(train, store, model_of(policy), pairs, artifact)
    shards = sample(pairs, config.num_pairs)
    return MarginWork(config=train, scoring=replace(every, shards=shards, missing=shards))


def margins_there(store: Store, pairs: Artifact) -> dict[str, Artifact]:
    """By policy, the log-probabilities of these pairs after training; of several samples the largest."""
    found = [store.find(name) for name in store.names(family_of(pairs)) if name.rpartition("/")[0] == family_of(pairs)]
    return {item.counts["policy"]: item for item in sorted(found, key=lambda item: item.counts["num_pairs"])}


def family_of(pairs: Artifact) -> str:
    return f"margins/{pairs.name.removeprefix('pairs/')}"


def sample(pairs: Artifact, at_least: int) -> list[str]:
    """Names of shards that together have at least so many pairs, or of all shards if it is 0. More pairs are asked for
    by adding shards, never by other ones."""
    shards = shards_in(pairs.path("pairs"))
    if not at_least:
        return shards
    chosen, number = list[str](), 0
    for shard in sorted(shards, key=lambda shard: key_of(0, "margins", shard)):
        if number < at_least:
            chosen.append(shard)
            number += num_rows(pairs.path("pairs", shard))
    return sorted(chosen, key=shards.index)


@dataclass(frozen=True, kw_only=True)
class MarginWork:
    """The pairs to score, and how."""

    config: Train
    scoring: Scoring

    def num_weights(self) -> int:
        return shape_of(local_outline(self.scoring.reading.directory)).num_weights

    def load(self) -> "MarginWorker":
        return MarginWorker(self)


class MarginWorker:
    """Holds the policy and scores shards of pairs. Every worker tries the same two pairs first, so that all agree on
    whether image and question are computed once per pair."""

    def __init__(self, work: MarginWork):
        import torch

        self.scorer = Scorer(work.config, work.scoring, "cuda" if torch.cuda.is_available() else "cpu")
        self.packed = self.scorer.trial() is None

    @property
    def computed_at(self) -> float:
        return self.scorer.computed_at

    def commit(self, shard: str) -> int:
        """Score the pairs of one shard and write its file. Returns the number of pairs."""
        self.scorer.commit(shard, self.packed)
        return num_rows(self.scorer.scoring.logps.path(shard))
