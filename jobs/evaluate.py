"""Scores two models on the benchmarks -> the artifacts `scores/<benchmark>/<policy>`.

    python jobs/evaluate.py --start toy --policy policies/toy
    python jobs/evaluate.py --start toy --policy policies/toy-s0 policies/toy-s1 policies/toy-s2

Several policies are several seeds of one training: `repeats/<benchmark>/<name>` has their mean difference too.
"""

from dataclasses import dataclass, field, replace

from presets import MODELS, TOY_GENERATE, USUAL, ModelJob, benchmarks_of
from seva_ray.benchmarks import Benchmarks
from seva_ray.benchmarks.judged import JudgedBenchmarks
from seva_ray.benchmarks.judged.endpoint import Judge
from seva_ray.core.errors import ConfigError
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.consistency import Consistency, consistency_of
from seva_ray.stages.evaluate import evaluate, prepare_benchmarks
from seva_ray.stages.judge import open_judge
from seva_ray.stages.prepare import Prepare
from seva_ray.stages.results import result_table
from seva_ray.stages.score_files import Evaluate

MAX_NAME = 128
"""Characters of what becomes a directory's name."""


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(ModelJob):
    """Scores of a policy beside those of the model it started from."""

    start: tuple[str, ...]
    """A model directory, a policy of this root (`policies/<name>`), or `toy`. One for all policies, or one for each."""
    policy: tuple[str, ...]
    """The model to compare with it: likewise. Several: the same training under several seeds, also taken together."""
    name: str = ""
    """Names what is said of several policies together; empty: their names, joined by +."""
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    judged: JudgedBenchmarks = field(default_factory=JudgedBenchmarks)
    judge: Judge = field(default_factory=Judge)
    prepare: Prepare = field(default_factory=Prepare)
    generate: Generate = field(default_factory=Generate)
    evaluate: Evaluate = field(default_factory=Evaluate)
    consistency: Consistency = field(default_factory=Consistency)

    def __post_init__(self) -> None:
        if not self.policy or len(set(self.policy)) < len(self.policy):
            raise ConfigError(f"policy: expected one or more, each once, got {' '.join(self.policy) or 'none'}")
        if len(self.start) not in (1, len(self.policy)):
            raise ConfigError(
                f"start: {len(self.start)} models for {len(self.policy)} policies; give one, or one for each"
            )


def main(config: EvaluateJob) -> None:
    store = config.store()
    benchmarks = benchmarks_of(config.benchmarks, config.judged, config.generate)
    judge = open_judge(config.judge, benchmarks)
    if not benchmarks:
        raise ConfigError("benchmarks: none is chosen")
    every = list(dict.fromkeys([*config.start, *config.policy]))
    for model in every:
        check_start(store, model, config.generate.image_options)
    models = {model: starting_model(store, model, config.toy) for model in every}
    starts = config.start if len(config.start) > 1 else config.start * len(config.policy)
    contests = [(models[start], models[policy]) for start, policy in zip(starts, config.policy, strict=True)]
    name = config.name or "+".join(policy.name for _, policy in contests)
    if len(name) > MAX_NAME:
        raise ConfigError(f"name: the policies' names are too long together ({len(name)} characters); give one")
    settings = config.evaluate, config.generate
    with cluster():
        tests = prepare_benchmarks(config.prepare, store, benchmarks)
        scores = evaluate(*settings, store, benchmarks, tests, contests, judge, config.consistency, name)
    for policy in config.policy if config.consistency.num_answers else ():
        scores += consistency_of(store, models[policy].name)
    for item in scores:
        print(*result_table(item), sep="\n", flush=True)


TOY = EvaluateJob(
    start=("toy",), policy=("policies/toy",), benchmarks=Benchmarks(toy_images=300), generate=TOY_GENERATE
)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, start=("toy-qwen",), policy=("policies/toy-qwen",)),
    **{
        name: EvaluateJob(
            start=(of.model,), policy=(f"policies/{name}",), generate=of.generate, benchmarks=of.benchmarks
        )
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Score policies and the models that they started from.", USUAL)
