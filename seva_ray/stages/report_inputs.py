"""report_inputs: the artifacts that the page about a policy shows, and how much of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from seva_ray.augmentations import CONTROLS
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.pairs.files import lineage
from seva_ray.stages.consistency import consistency_of
from seva_ray.stages.repeats import repeats_of
from seva_ray.stages.score_files import scores_of


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report shows."""

    num_samples: int = 12
    """Number of pairs in the sample grid."""
    num_flips: int = 2
    """Number of questions of each benchmark that the policy gained, and as many that it lost, shown with pictures."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_flips"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The artifacts that a page shows."""

    policy: Artifact
    pairs: Artifact
    prompts: Artifact
    responses: Sequence[Artifact]
    """The chosen responses, then the rejected ones."""
    floors: Sequence[Artifact]
    """The pairs of the control views."""
    scores: Sequence[Artifact]
    answers: Sequence[Artifact]
    """The policy's responses to the benchmarks."""
    repeats: Sequence[Artifact]
    consistency: Sequence[Artifact]

    def made(self) -> list[Artifact]:
        """What has rows that may fail, in the order in which it was made: prompts, responses, pairs."""
        return [self.prompts, *self.responses, *self.floors, self.pairs, *self.answers]

    def records(self) -> dict[str, Any]:
        """The record of each artifact, by its name. It changes if the artifact is made again."""
        values = [getattr(self, item.name) for item in fields(self)]
        every = [artifact for value in values for artifact in ([value] if isinstance(value, Artifact) else value)]
        return {artifact.name: artifact.record for artifact in every}


def inputs_of(store: Store, name: str) -> ReportInputs:
    """Raises: InputError if the policy, or something that it was made from, is not complete."""
    policy = store.find(f"policies/{name}")
    pairs = store.find(next(iter(policy.recipe["inputs"])))
    prompts, chosen, rejected = lineage(store, pairs)
    scores = scores_of(store, name)
    return ReportInputs(
        policy=policy,
        pairs=pairs,
        prompts=prompts,
        responses=[chosen, *rejected],
        floors=controls(store, pairs),
        scores=scores,
        answers=[
            store.find(item)
            for score in scores
            if "harness" not in score.counts
            for item in list(score.recipe["inputs"])[1:]
        ],
        repeats=repeats_of(store, name),
        consistency=consistency_of(store, name),
    )


def controls(store: Store, pairs: Artifact) -> list[Artifact]:
    """The pairs of the control views, if they exist: they show how many answers differ without an augmentation."""
    prefix = pairs.name.rsplit("/", 1)[0]
    return [store.find(name) for name in store.names(prefix) if name.removeprefix(f"{prefix}/") in CONTROLS]
