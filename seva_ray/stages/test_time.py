"""test time: a model on benchmarks that it sees in augmented views, without training.

In: a model, prompts of benchmarks, views. Out: `scores/<benchmark>/<model>+<view>`, the view against the clean images.
A study makes the same scores for its own objective. Source: SeVa (arXiv 2404.10501), figure 2.
"""

from collections.abc import Sequence

from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.engines.config import Generate
from seva_ray.stages.evaluate import compare
from seva_ray.stages.generate import generate
from seva_ray.stages.score_files import Evaluate
from seva_ray.vlm.models import Model


def seen_in_views(
    config: Evaluate,
    generation: Generate,
    store: Store,
    model: Model,
    views: Sequence[str],
    benchmarks: Sequence[Benchmark | JudgedBenchmark],
    prompts: Sequence[Artifact],
    judge: Endpoint | None,
) -> list[Artifact]:
    """Makes one score artifact for each benchmark and view."""
    work = [(of_prompts, view) for of_prompts in prompts for view in (CLEAN, *views)]
    answers = iter(generate(generation, store, model, work))
    scores = []
    for benchmark, of_prompts in zip(benchmarks, prompts, strict=True):
        clean, *seen = [next(answers) for _ in (CLEAN, *views)]
        scores += [
            compare(config, store, benchmark, of_prompts, clean, viewed, f"{model.name}+{view}", judge)
            for view, viewed in zip(views, seen, strict=True)
        ]
    return scores
