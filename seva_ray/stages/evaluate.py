"""evaluate: starting model and policy on a benchmark -> the artifact `scores/<benchmark>/<policy>`.

Both models answer the same prompts through the generate stage. Every difference comes with its paired bootstrap
interval. If a benchmark decides which answers are right, `outcomes.parquet` says which questions the policy gained and
lost. If it knows the objects in its images, the counts list the hallucinated ones. Several policies are also scored
together (repeats.py).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.benchmarks.base import Benchmark, InParts, protocol_of
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.benchmarks.judged.endpoint import Endpoint
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError
from seva_ray.engines.config import Generate
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.scoring.right_wrong import Decides
from seva_ray.stages.consistency import OFF, Consistency, compare_again, part_of
from seva_ray.stages.generate import generate_all, responses_name
from seva_ray.stages.judge import judge_recipe, judged_tallies
from seva_ray.stages.judge_reading import needs_reader, read_by_judge, reading_recipe
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.repeats import repeats
from seva_ray.stages.score_files import Contest, Evaluate, fate_of, write_comparisons
from seva_ray.stages.score_parts import Part, all_answers, parts_of, write_scores


def prepare_benchmarks(
    config: Prepare, store: Store, benchmarks: Sequence[Benchmark | JudgedBenchmark]
) -> list[Artifact]:
    """The prompts of every benchmark."""
    return [prepare(config, store, benchmark.name, benchmark) for benchmark in benchmarks]


def evaluate(
    config: Evaluate,
    generation: Generate,
    store: Store,
    benchmarks: Sequence[Benchmark | JudgedBenchmark],
    prompts: Sequence[Artifact],
    contests: Sequence[Contest],
    judge: Endpoint | None = None,
    again: Consistency = OFF,
    name: str = "",
) -> list[Artifact]:
    """Makes one score artifact per benchmark and contest. If there are several contests, also one over all, named
    `name`.

    Benchmarks that need the judge come last, so that a failure of the judge does not cost the others.
    Raises: ConfigError if two models have the same name.
    """
    parts = [part_of(again, store, artifact) for artifact in prompts] if again.num_answers else []
    asked = [(artifact, CLEAN) for artifact in prompts] + [(part, view) for part in parts for view in again.views()]
    models = dict.fromkeys(model for contest in contests for model in contest)
    if len({model.name for model in models}) < len(models):
        raise ConfigError(f"models {', '.join(model.name for model in models)}: two have the same name")
    made = generate_all(generation, store, [(model, *work) for model in models for work in asked])
    answers = {artifact.name: artifact for artifact in made}
    for part in parts:
        for contest in contests:
            compare_again(again, config, store, part, contest, answers)
    found = []
    pairs = zip(benchmarks, prompts, strict=True)
    for benchmark, of_prompts in sorted(pairs, key=lambda pair: needs_judge(pair[0])):
        scores = []
        for contest in contests:
            before, after = (answers[responses_name(model, of_prompts, CLEAN)] for model in contest)
            with waiting(f"evaluate {benchmark.name}: computing the scores"):
                scores.append(compare(config, store, benchmark, of_prompts, before, after, contest[1].name, judge))
        found += scores
        if len(contests) > 1:
            found.append(repeats(config, store, benchmark, scores, name))
    return found


def compare(
    config: Evaluate,
    store: Store,
    benchmark: Benchmark | JudgedBenchmark,
    prompts: Artifact,
    start_responses: Artifact,
    policy_responses: Artifact,
    name: str,
    judge: Endpoint | None = None,
) -> Artifact:
    """Score both models' responses to a benchmark, as the artifact `scores/<benchmark>/<name>`."""
    recipe = recipe_of(config, benchmark, judge)
    inputs = (start_responses, policy_responses)
    return made_once(
        store,
        lambda: store.open(f"scores/{benchmark.name}/{name}", config=recipe, inputs=inputs, later_is_new=True),
        lambda artifact: scored(config, store, artifact, benchmark, prompts, inputs, judge),
    )


def scored(
    config: Evaluate,
    store: Store,
    artifact: Artifact,
    benchmark: Benchmark | JudgedBenchmark,
    prompts: Artifact,
    of_models: tuple[Artifact, Artifact],
    judge: Endpoint | None,
) -> Artifact:
    """Score both models' responses, while no other job does it."""
    counts: dict[str, Any] = {"protocol": protocol_of(benchmark)}
    parts: Iterable[Part]
    if isinstance(benchmark, InParts):
        parts = parts_of(benchmark, prompts, of_models)
    else:
        answers = all_answers(prompts, of_models)
        if isinstance(benchmark, JudgedBenchmark):
            assert judge is not None
            start, aligned, counts["judging"] = judged_tallies(judge, store, benchmark, artifact, answers)
        else:
            if needs_reader(benchmark):
                assert judge is not None
                assert isinstance(benchmark, MMBench)
                answers, reading = read_by_judge(judge, store, benchmark, answers)
                counts |= reading
            start, aligned = (benchmark.tally(of_model) for of_model in answers)
        parts = [Part(benchmark=benchmark, answers=answers, tallies=(start, aligned))]
    artifact = artifact.begin()
    found = write_scores(artifact, parts)
    counts |= found.counts(isinstance(benchmark, Decides))
    comparisons = found.tallies.comparisons(benchmark.metrics, num_resamples=config.num_resamples, seed=config.seed)
    write_comparisons(artifact, comparisons)
    num_images = found.tallies.num_images
    say(f"evaluate {benchmark.name}: {len(comparisons)} metrics on {num_images:,} images")
    failed = found.failures(prompts, of_models, fate_of("judging" in counts))
    return artifact.finish({"num_images": num_images, "num_metrics": len(comparisons)} | failed | counts)


def needs_judge(benchmark: Benchmark | JudgedBenchmark) -> bool:
    return isinstance(benchmark, JudgedBenchmark) or needs_reader(benchmark)


def recipe_of(config: Evaluate, benchmark: Benchmark | JudgedBenchmark, judge: Endpoint | None) -> dict[str, Any]:
    recipe = {"evaluate": config, "benchmark": benchmark}
    if rules := getattr(benchmark, "rules", None):
        recipe["rules"] = rules
    if needs_reader(benchmark):
        assert judge is not None, f"{benchmark.name} needs a judge"
        recipe |= reading_recipe(judge.judge)
    if isinstance(benchmark, JudgedBenchmark):
        assert judge is not None, f"{benchmark.name} needs a judge"
        recipe |= judge_recipe(judge.judge, benchmark)
    return recipe
