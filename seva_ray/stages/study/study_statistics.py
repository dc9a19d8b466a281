"""What the artifacts of a study say beyond its scores: passes, how views differ, how long answers are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact
from seva_ray.core.shards import read_each
from seva_ray.core.storage import read_table
from seva_ray.pairs.files import files_of
from seva_ray.scoring.intervals import Comparison
from seva_ray.stages.evaluate import compare
from seva_ray.stages.generate import GenerationTask, open_responses
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.score_files import read_comparisons
from seva_ray.stages.study.study_context import MeasuredPoint, StudyContext
from seva_ray.stages.study.study_server import StudyServer
from seva_ray.studies.space import Point, PromptSet
from seva_ray.studies.study_rows import ViewFacts

MeasuredPoints = Mapping[Point, MeasuredPoint]
"""What is known of each point that was measured."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often a model answered all training prompts in one view."""

    done: int
    """Number of passes that this study made."""
    found: int
    """Number of passes that existed when the study began."""
    apart: int
    """Number of passes if each trial ran alone and made its own clean and rejected responses."""


def passes_of(context: StudyContext, points: Sequence[Point], began: float) -> Passes:
    """`points`: those of all trials, including the ones that failed."""
    finished = [artifact.finished for artifact in responses_of(context, points) if artifact.complete]
    return Passes(
        done=sum(when >= began for when in finished),
        found=sum(when < began for when in finished),
        apart=len(context.seeds) * sum(1 + point.num_negatives for point in points),
    )


def responses_of(context: StudyContext, points: Sequence[Point]) -> list[Artifact]:
    """Responses to the training prompts in every view that the points need, complete or not. Nothing is written."""
    views = {(point.prompt_set, view) for point in points for view in (CLEAN, *point.views)}
    store = context.store
    found = {}
    for model in context.base_models:
        for prompt_set, view in sorted(views, key=str):
            artifact = open_responses(context.generate, store, model, context.prompts[prompt_set], view)
            found[artifact.name] = artifact
    return list(found.values())


def view_facts(measured: MeasuredPoints, answers: Mapping[PromptSet, Mapping[str, str]]) -> list[ViewFacts]:
    """The statistics over all base models and prompts, for each view that is the only rejected view of some pairs."""
    of_view: dict[str, dict[str, tuple[Artifact, PromptSet]]] = {}
    for point, found in measured.items():
        for pairs in found.pairs if point.num_negatives == 1 else ():
            of_view.setdefault(point.view, {})[pairs.name] = pairs, point.prompt_set
    return [facts_of_view(view, list(of_pairs.values()), answers) for view, of_pairs in of_view.items()]


def facts_of_view(
    view: str,
    every: Sequence[tuple[Artifact, PromptSet]],
    answers: Mapping[PromptSet, Mapping[str, str]],
) -> ViewFacts:
    """`every`: the view's pairs, each with its set of prompts. `answers`: right answers by set and prompt."""
    judged: Counter[str] = Counter({"chosen right": 0, "rejected right": 0, "neither": 0})
    chosen, rejected = Counter[int](), Counter[int]()
    for pairs, prompt_set in every:
        right = answers.get(prompt_set, {})
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
    """A list whose place n counts what has length n."""
    return [lengths.get(length, 0) for length in range(max(lengths, default=-1) + 1)]


def tokens_of(context: StudyContext, model: str) -> list[int]:
    """How many of a model's responses to the objective's benchmark have each length in tokens."""
    _, tests = context.objective_benchmark()
    responses = context.store.find(f"responses/{model}/{tests.name.removeprefix('prompts/')}/{CLEAN}")
    lengths: Counter[int] = Counter()
    for shard in shards_of(tests):
        rows = read_table(responses.path(shard), columns=["token_ids"])
        lengths.update(map(len, rows["token_ids"].to_pylist()))
    return by_length(lengths)


def test_time_tasks(context: StudyContext, views: Sequence[str]) -> list[GenerationTask]:
    """The first base model on the objective's benchmark: the clean images, and each view."""
    _, tests = context.objective_benchmark()
    return [(context.base_models[0], tests, view) for view in (CLEAN, *views)]


def test_time_scores(server: StudyServer, views: Sequence[str]) -> dict[str, list[Comparison]]:
    """Augmentation without training: the first base model on the objective's benchmark in each view, against itself on
    the clean images. Source: SeVa (arXiv 2404.10501), figure 2."""
    context = server.context
    model, (benchmark, tests) = context.base_models[0], context.objective_benchmark()
    clean, *answers = server.generation.responses(test_time_tasks(context, views))
    found = {}
    for view, responses in zip(views, answers, strict=True):
        asked = (context.evaluate, context.store, benchmark, tests, clean, responses, f"{model.name}+{view}")
        with server.judging(benchmark) as endpoint:
            found[view] = read_comparisons(compare(*asked, endpoint))
    return found
