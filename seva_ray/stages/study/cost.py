"""What a study took: how long each stage was at work, and how many hours of GPUs or CPUs it held."""

import json
import math
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from seva_ray.core.artifacts import Artifact, StageTime
from seva_ray.core.shards import read_each
from seva_ray.core.storage import names_in, read_bytes, write_bytes
from seva_ray.stages.study.resource_queue import ResourceRequest
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.study_statistics import MeasuredPoints, responses_of
from seva_ray.stages.training.reference import open_logps
from seva_ray.studies.space import Point


@dataclass(frozen=True)
class ResourceRecord:
    """What a study held of the cluster: under the URI of its artifact, a small file for each request that was given
    back, so that restarts add up. What the study held when it was killed is not counted."""

    uri: str

    def __call__(self, purpose: str, request: ResourceRequest, seconds: float) -> None:
        """Writes one file. `ResourceQueue` calls this with each request that was given back."""
        held = {"what": purpose, "claim": request, "seconds": seconds}
        write_bytes(f"{self.uri}/held/{uuid.uuid4().hex}.json", json.dumps(held).encode())

    def hours(self, resource: str) -> dict[str, float]:
        """Hours for which one resource was held, by purpose."""
        total = Counter[str]()
        # A file that a killed process was still writing ends otherwise.
        names = (name for name in names_in(f"{self.uri}/held") if name.endswith(".json"))
        for held in map(json.loads, read_each(read_bytes, [f"{self.uri}/held/{name}" for name in names])):
            total[held["what"]] += held["claim"].get(resource, 0) * held["seconds"] / 3600
        return dict(sorted(total.items()))


def seconds_of(
    context: StudyContext, measured: MeasuredPoints, points: Sequence[Point], began: float
) -> tuple[list[StageTime], float]:
    """For each stage, and for all together, the time in s in which any of its artifacts was being made.

    Artifacts that existed when the study began count only for a stage that made nothing new.
    """
    times, new = [], []
    for stage, items in made_by_stage(context, measured, points).items():
        fresh = [item for item in items if item.finished >= began]
        times.append(StageTime(stage=stage, seconds=at_work(fresh or items), reused=not fresh))
        new += fresh
    return times, at_work(new)


def made_by_stage(
    context: StudyContext, measured: MeasuredPoints, points: Sequence[Point]
) -> dict[str, list[Artifact]]:
    """The study's artifacts by stage, each once."""
    store = context.store
    logps, pairs, policies = dict[str, Artifact](), dict[str, Artifact](), dict[str, Artifact]()
    for point, found in measured.items():
        train = point.train(context.train, seed=0)
        for model, of_pairs, policy in zip(context.base_models, found.pairs, found.policies, strict=True):
            for on_view in {False, train.loss.reads_view}:
                scored = open_logps(train, store, model, of_pairs, on_view=on_view)
                logps[scored.name] = scored
            pairs[of_pairs.name], policies[policy.name] = of_pairs, policy
    models = {name.removeprefix("policies/") for name in policies}
    models |= {f"{context.base_models[0].name}+{point.view}" for point in points}  # the base model in each view
    scores = [store.find(name) for name in store.names("scores") if name.rsplit("/", 1)[-1] in models]
    answers = {name for item in scores for name in item.recipe["inputs"] if name.startswith("responses/")}
    return {
        "generate": [artifact for artifact in responses_of(context, points) if artifact.complete],
        "pair": list(pairs.values()),
        "reference": [artifact for artifact in logps.values() if artifact.complete],
        "train": list(policies.values()),
        "evaluate": [*scores, *map(store.find, sorted(answers))],
    }


def at_work(artifacts: Sequence[Artifact]) -> float:
    """Seconds in which at least one of the artifacts was being made."""
    total, until = 0.0, -math.inf
    for start, end in sorted((item.finished - item.seconds, item.finished) for item in artifacts):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
