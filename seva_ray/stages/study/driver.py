"""study: a sweep and all that follows from it -> the artifact `studies/<name>`.

Writes every metric of every point (`table.parquet`, `table.csv`), the best policy with its model card (`best/`), and
the page (`index.html`). All of it is read from the artifacts that the sweep left. The driver's main thread runs this.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import UserError
from seva_ray.core.provenance import versions
from seva_ray.core.storage import exists, read_bytes, write_bytes
from seva_ray.runtime.progress import say
from seva_ray.stages.export import Export, export
from seva_ray.stages.generate import open_responses
from seva_ray.stages.pair import open_pairs
from seva_ray.stages.study.cluster_check import check_cluster
from seva_ray.stages.study.cost import ResourceRecord, seconds_of
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.study_results import best_seed, outcome_of, study_rows, summary, write_tables
from seva_ray.stages.study.study_server import StudyServer
from seva_ray.stages.study.study_statistics import (
    MeasuredPoints,
    Passes,
    passes_of,
    test_time_scores,
    test_time_tasks,
    tokens_of,
    view_facts,
)
from seva_ray.stages.study.sweep import Search, TrialOutcome, points_of, sweep
from seva_ray.studies.space import Point, PromptSet, Space
from seva_ray.studies.study_rows import StudyContent

Answers = Mapping[str, str]
"""Right answers by prompt_id."""


@dataclass(frozen=True, kw_only=True)
class StudyDefinition:
    """What a study searches, with what, and who started it."""

    name: str
    space: Space
    search: Search
    context: StudyContext
    test_time: bool
    """Whether the first base model is also scored on the benchmark seen in each view, without training."""
    answers: Mapping[PromptSet, Answers]
    """The right answers to the training prompts, if the source knows them."""
    command: str
    """The command that started the study."""
    began: float
    """When it was started, Unix time in s."""


def study(definition: StudyDefinition, store: Store, command_of: Callable[[Point, int, Artifact], str]) -> Artifact:
    """Runs the search and writes the page. `command_of` a point, the index of a seed and its policy is the command that
    trains this policy again.

    Raises: InputError if the cluster is too small; FingerprintMismatch if another recipe has a name that the study
    needs; UserError if points failed for reasons that the user can remove: the page exists, and the same command tries
    these points again.
    """
    context, artifact = definition.context, opened(definition, store)
    record = ResourceRecord(artifact.uri)
    began = first_began(artifact, definition.began)
    outcomes = outcomes_of(definition, artifact, record)
    passes = passes_of(context, [outcome.point for outcome in outcomes], began)
    content, best = study_content(definition, artifact, record, began, outcomes, passes)
    retryable = [outcome for outcome in outcomes if not outcome.lasts]
    if best:
        content = with_best_policy(content, context, artifact, *best, command_of, exported=not retryable)
    write_tables(artifact, content.rows)
    if not artifact.complete and not retryable:
        failed = sum(bool(outcome.error) for outcome in outcomes)
        artifact = artifact.finish(
            {"num_trials": len(outcomes), "num_failed": failed, "passes": asdict(passes)}, lasting=False
        )
    write_page(artifact, content)
    if retryable:
        raise UserError(
            f"studies/{definition.name}: {len(retryable):,} of {len(outcomes):,} points failed, and are tried again by "
            f"the same command; the first: {retryable[0].error}"
        )
    return artifact


def opened(definition: StudyDefinition, store: Store) -> Artifact:
    """The study's artifact. If the study is not finished, all checks are made first and the artifact is begun."""
    context = definition.context
    config = {
        "space": definition.space,
        "search": definition.search,
        "bench": context.identity(),
        "test_time": definition.test_time,
    }
    inputs = {item.name: item for item in (*context.prompts.values(), *context.tests)}
    artifact = store.open(f"studies/{definition.name}", config=config, inputs=list(inputs.values()))
    if artifact.complete:
        return artifact
    check_names(context, points_of(definition.search, definition.space, context.train))
    prompts = [*context.prompts.values(), *context.tests]
    check_cluster(context.generate, context.train, prompts, context.capacity)
    return artifact.begin()


def check_names(context: StudyContext, points: Sequence[Point]) -> None:
    """Checks before anything is generated. Raises: FingerprintMismatch or ConfigError if a point would."""
    store = context.store
    for model in context.base_models:
        for tests in context.tests:
            open_responses(context.generate, store, model, tests, CLEAN)
        for prompt_set, views in dict.fromkeys((point.prompt_set, tuple(point.views)) for point in points):
            prompts = context.prompts[prompt_set]
            chosen, *rejected = (
                open_responses(context.generate, store, model, prompts, view) for view in (CLEAN, *views)
            )
            open_pairs(context.pair, store, prompts, chosen, rejected)


def first_began(artifact: Artifact, now: float) -> float:
    """When the study was first started, Unix time in s: restarts are part of it."""
    uri = artifact.path("began")
    if not exists(uri):
        write_bytes(uri, repr(now).encode())
    return float(read_bytes(uri))


def outcomes_of(definition: StudyDefinition, artifact: Artifact, record: ResourceRecord) -> list[TrialOutcome]:
    """The outcome of every trial: of the search, or as a finished study kept them."""
    uri = artifact.path("trials.json")
    if artifact.complete:
        return [outcome_of(item) for item in json.loads(read_bytes(uri))]
    context, space = definition.context, definition.space
    ahead = test_time_tasks(context, space.plain_views()) if definition.test_time else []
    outcomes = sweep(definition.search, space, context, definition.name, artifact.uri, record, ahead)
    write_bytes(uri, json.dumps([asdict(item) for item in outcomes], indent=1).encode())
    return outcomes


def measured_points(server: StudyServer, outcomes: Sequence[TrialOutcome]) -> MeasuredPoints:
    """Every point on every number of pairs that the search measured. All of it exists, so it is only read."""
    return {
        point: server.measure_point(point)
        for outcome in outcomes
        for point in (replace(outcome.point, num_pairs=number) for number in outcome.num_pairs)
    }


def study_content(
    definition: StudyDefinition,
    artifact: Artifact,
    record: ResourceRecord,
    began: float,
    outcomes: Sequence[TrialOutcome],
    passes: Passes,
) -> tuple[StudyContent, tuple[Point, MeasuredPoints] | None]:
    """What the page shows, without the best policy; and the best point, if a point was measured."""
    context, space = definition.context, definition.space
    points = [outcome.point for outcome in outcomes]
    server = StudyServer(context, on_release=record)
    measured = measured_points(server, outcomes)
    rows, best = study_rows(context, space, measured, outcomes)
    test_time = test_time_scores(server, space.plain_views()) if definition.test_time else {}
    seconds, total_s = seconds_of(context, measured, points, began)
    content = StudyContent(
        title=f"Study {definition.name}",
        objective=context.objective,
        axes=space.axes(context.train),
        rows=rows,
        views=view_facts(measured, definition.answers),
        test_time=test_time,
        passes_done=passes.done,
        passes_apart=passes.apart,
        summary=summary(rows, best, context, space, passes, outcomes),
        seconds=seconds,
        total_s=total_s,
        hours=record.hours("GPU" if context.on_gpus else "CPU"),
        on_gpus=context.on_gpus,
        config=artifact.recipe["config"],
        versions=versions(),
        command=definition.command,
    )
    return content, (best, measured) if best else None


def with_best_policy(
    content: StudyContent,
    context: StudyContext,
    artifact: Artifact,
    best: Point,
    measured: MeasuredPoints,
    command_of: Callable[[Point, int, Artifact], str],
    *,
    exported: bool,
) -> StudyContent:
    """The content with the best point's policy, which is exported to `best/` unless the study will go on."""
    found = measured[best]
    index = best_seed(found, context.objective)
    policy = found.policies[index].name.removeprefix("policies/")
    directory = artifact.path("best") if exported else ""
    if directory and not exists(directory):
        export(Export(to=directory), context.store, policy)
    fields: dict[str, Any] = {
        "best": asdict(best),
        "best_command": command_of(best, index, found.policies[index]),
        "best_directory": directory,
        "start_tokens": tokens_of(context, context.base_models[index].name),
        "best_tokens": tokens_of(context, policy),
    }
    return replace(content, **fields)


def write_page(artifact: Artifact, content: StudyContent) -> None:
    """Writes `index.html` and prints the summary."""
    from seva_ray.pages.study_page import render  # imports matplotlib, which `--help` does not need

    write_bytes(artifact.path("index.html"), render(content).encode())
    for line in content.summary:
        say(f"study: {line}")
    say(f"study: {artifact.path('index.html')}")
