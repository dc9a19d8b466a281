"""What the artifacts of a study say beside its scores: passes, how views differ, how long answers are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_table
from seva_ray.pairs.files import files_of
from seva_ray.scoring.intervals import Comparison
from seva_ray.stages.evaluate import compare
from seva_ray.stages.generate import open_responses
from seva_ray.stages.prepare import shard_name
from seva_ray.stages.score_files import read_comparisons
from seva_ray.stages.study.study_server import Bench, Measured, StudyServer
from seva_ray.studies.space import Point
from seva_ray.studies.study_rows import ViewFacts

Found = Mapping[Point, Measured]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Passes of a model over training prompts in one view."""

    done: int
    """By this study."""
    found: int
    """That were there when it began."""
    apart: int
    """Of its trials one by one, each with its own clean and rejected responses."""


def passes_of(bench: Bench, points: Sequence[Point], began: float) -> Passes:
    """`points`: of all trials, those that failed too."""
    finished = [artifact.finished for artifact in responses_of(bench, points) if artifact.complete]
    return Passes(
        done=sum(when >= began for when in finished),
        found=sum(when < began for when in finished),
        apart=len(bench.seeds) * sum(1 + point.num_negatives for point in points),
    )


def responses_of(bench: Bench, points: Sequence[Point]) -> list[Artifact]:
    """To the training prompts, in every view that the points need, complete or not. Nothing is written."""
    views = {(point.prompt_seed, view) for point in points for view in (CLEAN, *point.views)}
    store = bench.store
    found = {}
    for start in bench.starts:
        for seed, view in sorted(views, key=str):
            artifact = open_responses(bench.generate, store, start, bench.prompts[seed], view)
            found[artifact.name] = artifact
    return list(found.values())


def view_facts(measured: Found, answers: Mapping[int | None, Mapping[str, str]]) -> list[ViewFacts]:
    """One for each view that pairs were made of alone, over all starting models and prompts."""
    of_view: dict[str, dict[str, tuple[Artifact, int | None]]] = {}
    for point, found in measured.items():
        for pairs in found.pairs if point.num_negatives == 1 else ():
            of_view.setdefault(point.view, {})[pairs.name] = pairs, point.prompt_seed
    return [facts(view, list(of_pairs.values()), answers) for view, of_pairs in of_view.items()]


def facts(
    view: str,
    every: Sequence[tuple[Artifact, int | None]],
    answers: Mapping[int | None, Mapping[str, str]],
) -> ViewFacts:
    judged: Counter[str] = Counter({"chosen right": 0, "rejected right": 0, "neither": 0})
    chosen, rejected = Counter[int](), Counter[int]()
    for pairs, seed in every:
        right = answers.get(seed, {})
        for row in kept_pairs(pairs):
            (other,) = row["rejected"]
            chosen[len(row["chosen_token_ids"])] += 1
            rejected[len(other["token_ids"])] += 1
            if answer := right.get(row["prompt_id"]):
                sides = {"chosen right": row["chosen"], "rejected right": other["text"]}
                judged[next((side for side, text in sides.items() if text.strip() == answer), "neither")] += 1
    return ViewFacts(
        view=view,
        num_prompts=sum(pairs.counts["num_prompts"] for pairs, _ in every),
        num_kept=sum(pairs.counts["verdicts"]["kept"] for pairs, _ in every),
        judged=judged if any(answers.values()) else None,
        chosen_tokens=by_length(chosen),
        rejected_tokens=by_length(rejected),
    )


def kept_pairs(pairs: Artifact) -> Iterator[dict[str, Any]]:
    read = partial(read_table, columns=["prompt_id", "chosen", "chosen_token_ids", "rejected"])
    for shard in read_each(read, files_of(pairs)):
        yield from shard.to_pylist()


def by_length(lengths: Mapping[int, int]) -> list[int]:
    """Place n counts what has length n."""
    return [lengths.get(length, 0) for length in range(max(lengths, default=-1) + 1)]


def tokens_of(store: Store, bench: Bench, model: str) -> list[int]:
    """A model's responses to the objective's benchmark, by length."""
    (tests,) = (
        tests
        for benchmark, tests in zip(bench.benchmarks, bench.tests, strict=True)
        if benchmark.name == bench.objective[0]
    )
    responses = store.find(f"responses/{model}/{tests.name.removeprefix('prompts/')}/{CLEAN}")
    lengths: Counter[int] = Counter()
    for index in range(tests.counts["num_shards"]):
        shard = read_table(responses.path(shard_name(index)), columns=["token_ids"])
        lengths.update(map(len, shard["token_ids"].to_pylist()))
    return by_length(lengths)


def test_time_scores(server: StudyServer, views: Sequence[str]) -> dict[str, list[Comparison]]:
    """Augmentation without training: the first starting model on the objective's benchmark in each view, against
    itself on the images as they are. Source: SeVa (arXiv 2404.10501), figure 2."""
    bench = server.bench
    start = bench.starts[0]
    (place,) = (n for n, benchmark in enumerate(bench.benchmarks) if benchmark.name == bench.objective[0])
    benchmark, tests = bench.benchmarks[place], bench.tests[place]
    clean, *answers = server.responses([(start, tests, view) for view in (CLEAN, *views)])
    return {
        view: read_comparisons(
            compare(bench.evaluate, bench.store, benchmark, tests, clean, responses, f"{start.name}+{view}")
        )
        for view, responses in zip(views, answers, strict=True)
    }
