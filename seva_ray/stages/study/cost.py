"""What a study took: the time in which each stage was at work, and the GPUs that it held."""

import json
import math
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from seva_ray.core.artifacts import Artifact, StageTime
from seva_ray.core.shards import read_each
from seva_ray.core.storage import names_in, read_bytes, write_bytes
from seva_ray.stages.study.resource_requests import ResourceRequest
from seva_ray.stages.study.study_server import Bench
from seva_ray.stages.study.study_statistics import Found, responses_of
from seva_ray.stages.training.reference import open_logps
from seva_ray.studies.space import Point


@dataclass(frozen=True)
class Holdings:
    """What a study held of the cluster, under the URI of its artifact: a small file for each claim that was given back,
    so that restarts add up. What was held when the study was killed is not counted."""

    uri: str

    def __call__(self, what: str, claim: ResourceRequest, seconds: float) -> None:
        """Keeps it; as `Lanes` tells it."""
        held = {"what": what, "claim": claim, "seconds": seconds}
        write_bytes(f"{self.uri}/held/{uuid.uuid4().hex}.json", json.dumps(held).encode())

    def hours(self, resource: str) -> dict[str, float]:
        """Of that resource, by what it was for."""
        total = Counter[str]()
        # One that a killed process was writing has another ending.
        names = (name for name in names_in(f"{self.uri}/held") if name.endswith(".json"))
        for held in map(json.loads, read_each(read_bytes, [f"{self.uri}/held/{name}" for name in names])):
            total[held["what"]] += held["claim"].get(resource, 0) * held["seconds"] / 3600
        return dict(sorted(total.items()))


def seconds_of(bench: Bench, measured: Found, points: Sequence[Point], began: float) -> tuple[list[StageTime], float]:
    """Of each stage, and of all together, the time in which any of it was at work, s. What was there when the study
    began counts only where a stage had nothing else."""
    times, new = [], []
    for stage, items in made_by_stage(bench, measured, points).items():
        fresh = [item for item in items if item.finished >= began]
        times.append(StageTime(stage=stage, seconds=at_work(fresh or items), reused=not fresh))
        new += fresh
    return times, at_work(new)


def made_by_stage(bench: Bench, measured: Found, points: Sequence[Point]) -> dict[str, list[Artifact]]:
    """The study's artifacts, each once."""
    store = bench.store
    logps, pairs, policies = dict[str, Artifact](), dict[str, Artifact](), dict[str, Artifact]()
    for found in measured.values():
        for start, of_pairs, policy in zip(bench.starts, found.pairs, found.policies, strict=True):
            scored = open_logps(bench.train, store, start, of_pairs)
            logps[scored.name], pairs[of_pairs.name], policies[policy.name] = scored, of_pairs, policy
    models = {name.removeprefix("policies/") for name in policies}
    models |= {f"{bench.starts[0].name}+{point.view}" for point in points}  # its scores in each view
    scores = [store.find(name) for name in store.names("scores") if name.rsplit("/", 1)[-1] in models]
    answers = {name for item in scores for name in item.recipe["inputs"] if name.startswith("responses/")}
    return {
        "generate": [artifact for artifact in responses_of(bench, points) if artifact.complete],
        "pair": list(pairs.values()),
        "reference": [artifact for artifact in logps.values() if artifact.complete],
        "train": list(policies.values()),
        "evaluate": [*scores, *map(store.find, sorted(answers))],
    }


def at_work(artifacts: Sequence[Artifact]) -> float:
    """Seconds in which one at least was being made."""
    total, until = 0.0, -math.inf
    for start, end in sorted((item.finished - item.seconds, item.finished) for item in artifacts):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
