"""What all points of a study have in common, and what is known of a point that was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seva_ray.benchmarks.base import Benchmark
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.scoring.intervals import Repeated
from seva_ray.stages.pair import Pair
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.study.resource_queue import ResourceRequest
from seva_ray.studies.space import PromptSet
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """Everything that the points of a study have in common."""

    store: Store
    generate: Generate
    pair: Pair
    train: Train
    evaluate: Evaluate
    benchmarks: Sequence[Benchmark | JudgedBenchmark]
    tests: Sequence[Artifact]
    """The prompts of each benchmark."""
    prompts: Mapping[PromptSet, Artifact]
    """The training prompts."""
    base_models: Sequence[Model]
    """The base model that each training seed starts from."""
    seeds: Sequence[int]
    """The training seeds. Every point is trained once with each."""
    objective: tuple[str, str]
    """Benchmark and metric. The study looks for the point with the greatest gain in it over the base model."""
    capacity: ResourceRequest
    """What the cluster has once it has grown as far as it may, including kinds of nodes if it has any."""
    on_gpus: bool
    judge: Judge | None = None
    """Who scores the judged benchmarks; None if there are none."""

    def objective_benchmark(self) -> tuple[Benchmark | JudgedBenchmark, Artifact]:
        """The objective's benchmark, and its prompts."""
        both = zip(self.benchmarks, self.tests, strict=True)
        return next(item for item in both if item[0].name == self.objective[0])

    def identity(self) -> dict[str, Any]:
        """What the study's numbers follow from, apart from its inputs. The names are those of the first version."""
        return {
            "generate": self.generate,
            "pair": self.pair,
            "train": self.train,
            "evaluate": self.evaluate,
            "starts": [model.fingerprint for model in self.base_models],
            "seeds": self.seeds,
            "objective": self.objective,
            **({"judge": self.judge} if self.judge else {}),
        }


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """A point on one number of pairs: the policy of each seed, and their scores."""

    policies: Sequence[Artifact]
    pairs: Sequence[Artifact]
    score_files: Mapping[str, Sequence[Artifact]]
    """The score artifacts of each seed, by benchmark."""
    scores: Mapping[str, Sequence[Repeated]]
    """The scores over all seeds together, by benchmark."""

    def score(self, objective: tuple[str, str]) -> Repeated:
        """The scores in one metric of one benchmark."""
        benchmark, metric = objective
        (row,) = (row for row in self.scores[benchmark] if row.metric == metric)
        return row
