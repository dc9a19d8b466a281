"""evaluate alone: two models on the benchmarks -> the artifacts `scores/<benchmark>/<policy>`.

python jobs/evaluate.py --start toy --policy policies/toy
"""

from dataclasses import dataclass, field

from presets import LLAVA_GENERATE, TOY_GENERATE
from seva_ray.artifacts import Store
from seva_ray.benchmarks import Benchmark, Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmark, JudgedBenchmarks
from seva_ray.endpoint import Judge
from seva_ray.errors import ConfigError
from seva_ray.stages.cluster import cluster
from seva_ray.stages.evaluate import Evaluate, evaluate, prepare_benchmarks
from seva_ray.stages.generate import Generate
from seva_ray.stages.job import run
from seva_ray.stages.judge import open_judge
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.start import check_start, starting_model
from seva_ray.toy.sft import ToyRecipe


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Scores of a policy beside those of the model it started from."""

    start: str
    """A model directory, a policy of this root (`policies/<name>`), or `toy`."""
    policy: str
    """The model to compare with it: likewise."""
    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""
    toy: ToyRecipe = field(default_factory=ToyRecipe)
    """How the toy base is trained, where a model is `toy`."""
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    judged: JudgedBenchmarks = field(default_factory=JudgedBenchmarks)
    judge: Judge = field(default_factory=Judge)
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    evaluate: Evaluate = field(default_factory=Evaluate)


def main(config: EvaluateJob) -> None:
    store = Store(config.root)
    store.check_writable()
    benchmarks: list[Benchmark | JudgedBenchmark] = [*config.benchmarks.chosen(), *config.judged.chosen()]
    judge = open_judge(config.judge, benchmarks)
    if not benchmarks:
        raise ConfigError("benchmarks: none is chosen")
    for model in (config.start, config.policy):
        check_start(store, model)
    start, policy = (starting_model(store, model, config.toy) for model in (config.start, config.policy))
    with cluster():
        tests = prepare_benchmarks(config.prepare, store, benchmarks)
        evaluate(config.evaluate, config.generate, store, benchmarks, tests, start, policy, judge)


PRESETS = {
    "toy": EvaluateJob(
        start="toy", policy="policies/toy", benchmarks=Benchmarks(toy_images=300), generate=TOY_GENERATE
    ),
    "llava-7b": EvaluateJob(start="llava-1.5-7b-hf", policy="policies/llava-7b", generate=LLAVA_GENERATE),
}

if __name__ == "__main__":
    run(main, PRESETS, "Scores of a policy beside those of the model it started from.")
