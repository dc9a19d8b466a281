"""Runs the experiments of the paper, one command for each table and figure: `python jobs/paper.py` lists them.

    python jobs/paper.py main-7b-diffusion500 --plan        what it takes, before anything is run
    python jobs/paper.py main-7b-diffusion500 --model llava-1.5-7b-hf --benchmarks.pope path/to/pope ... \\
        source:llava-json --source.path llava_v1_5_mix665k.json --source.image-root images
    python jobs/paper.py toy-main-7b-diffusion500           the same experiment on the toy world, in minutes

Each is a run of jobs/full.py, jobs/sweep.py or jobs/test_time.py: it can be resumed, and shares its artifacts with all
others. Afterwards `papers/<experiment>/index.html` has the authors' numbers beside ours.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import full
import plan
import sweep
import test_time
from experiments import Experiment, Run, Study, Views, experiments, toys
from presets import USUAL, benchmarks_of, prompts_of
from seva_ray.benchmarks import Benchmark
from seva_ray.benchmarks.judged import JudgedBenchmark
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.storage import exists, write_bytes
from seva_ray.pages.paper_page import PaperContent, joint_rows, render
from seva_ray.planning.rates import Fleet
from seva_ray.planning.study_total import StudySize, study_total, table_of
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.scoring.paper_numbers import beside
from seva_ray.sources import ToyWorld
from seva_ray.stages.consistency import consistency_of
from seva_ray.stages.results import agreements, change, headlines, main_row, number
from seva_ray.stages.score_files import benchmark_of, read_comparisons, scores_of


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The list of all experiments."""

    name: str = ""
    """Show only experiments whose names contain this."""


def main(config: Listing | Run | Study | Views) -> None:
    if isinstance(config, Listing):
        show(config.name)
    elif config.plan:
        price(config)
    elif isinstance(config, Run):
        for policy in config.policies():
            full.main(policy)
        if config.until is None:
            write_page(config)
    elif isinstance(config, Study):
        sweep.main(config)
        say(f"paper: {config.claim}")
    else:
        test_time.main(config)
        say(f"paper: {config.claim}")


def show(part: str) -> None:
    shown = {name: preset for name, preset in PRESETS.items() if part in name and isinstance(preset, Experiment)}
    if not shown:
        raise ConfigError(f"name {part}: no experiment has it in its name")
    width = max(map(len, shown))
    for name, preset in shown.items():
        print(f"{name:{width}}  {preset.claim}")


def price(config: Run | Study | Views) -> None:
    """Print what the experiment takes: answers, trainings, evaluations and questions to a judge."""
    lacking, benchmarks = "no benchmark is chosen", list[Benchmark | JudgedBenchmark]()
    try:
        benchmarks = benchmarks_of(config.benchmarks, config.judged, config.generate)
    except InputError as error:  # a plan may be made on another machine than the run
        lacking = str(error)
    num_questions = sum(1 for benchmark in benchmarks for _ in benchmark.prompts())
    if isinstance(config, Views):
        num_answers, speed = (len(config.views) + 1) * num_questions, config.rates.rows_per_s
        took = f": {num_answers / speed / 3600:.1f} hours of an engine" if speed else ""
        print(f"{len(config.views) + 1} passes over {num_questions:,} questions, no training{took}")
        num_models = len(config.views) + 1
    elif isinstance(config, Run):
        for policy in config.policies():
            plan.main(planned(policy, num_questions + sampled(policy, benchmarks)))
        num_models = 2 * len(config.policies())
    else:
        one, size = plan.main(planned(config, num_questions)), size_of(config, num_questions)
        print("", *table_of(size, study_total(size, one.work, config.rates, planned(config, 0).fleet)), sep="\n")
        num_models = size.num_policies + size.num_base_models + size.num_test_views
    if not num_questions:
        print(f"\nThe plan holds no evaluation: {lacking}.")
    if calls := num_models * sum(map(num_judge_prompts, benchmarks)) * config.judge.num_repeats:
        print(f"\nThe judge gets at most {calls:,} questions; equal ones are asked once.")


def num_judge_prompts(benchmark: Benchmark | JudgedBenchmark) -> int:
    """How often the judge is asked about one model's answers to all questions."""
    if not isinstance(benchmark, JudgedBenchmark):
        return 0
    return sum(len(benchmark.judge_prompts(prompt.prompt_id, "one", "other")) for prompt in benchmark.prompts())


def sampled(config: Run, benchmarks: Sequence[Benchmark | JudgedBenchmark]) -> int:
    """Sampled answers of one model to the benchmarks, for its consistency."""
    again = config.consistency
    sizes = (sum(1 for _ in benchmark.prompts()) for benchmark in benchmarks)
    return again.num_answers * sum(min(again.num_prompts, size) for size in sizes)


def size_of(config: Study, num_questions: int) -> StudySize:
    """What the whole study takes, in answers, trainings, evaluations and questions to a judge."""
    points = config.search.check(config.space, config.train)
    sets = {point.prompt_set for point in points}
    num_base_models = len(set(config.models))
    views = {(point.prompt_set, view) for point in points for view in point.views}
    of_pairs = {(point.prompt_set, tuple(point.views)) for point in points}
    return StudySize(
        num_prompt_sets=len(sets),
        num_base_models=num_base_models,
        num_passes=num_base_models * (len(sets) + len(views)),
        num_pair_sets=num_base_models * len(of_pairs),
        trained_pairs=[point.num_pairs for point in points for _ in config.seeds],
        num_questions=num_questions,
        num_test_views=len(config.space.plain_views()) if config.test_time else 0,
    )


def planned(config: Run | Study, num_questions: int) -> plan.PlanJob:
    """The job of jobs/plan.py for one policy of the experiment."""
    study, toy = isinstance(config, Study), isinstance(config.source, ToyWorld)
    model = config.models[0] if isinstance(config, Study) else config.model
    usual = plan.PRESETS["toy" if toy else "llava-13b" if "13b" in model else "llava-7b"]
    prompts = prompts_of(config.prompts, config.source, config.name, toy="toy-400" if study else "toy")
    there = exists(f"{Store(config.root).uri(f'prompts/{prompts}')}/record.json")
    names = ("root", "toy", "prepare", "generate", "pair", "train", "rates")
    return replace(
        usual,
        name=config.name,
        prompts=prompts,
        model=model,
        views=tuple(config.space.plain_views()[:1]) if isinstance(config, Study) else config.views,
        chosen="clean" if isinstance(config, Study) else config.chosen,
        controls=() if isinstance(config, Study) else config.controls,
        num_prompts=None if there else config.num_prompts,
        num_test_prompts=num_questions,
        fleet=usual.fleet if toy and config.fleet == Fleet() else config.fleet,
        **{name: getattr(config, name) for name in names},
    )


def write_page(config: Run) -> None:
    """Print the authors' numbers beside ours, and the policies beside each other, and write the page."""
    store = config.store()
    scores = {policy.name: scores_of(store, policy.name) for policy in config.policies()}
    measured = {
        policy: {benchmark_of(item): read_comparisons(item) for item in of_policy}
        for policy, of_policy in scores.items()
    }
    rows = [row for of_policy in measured.values() for row in beside(config.row, of_policy)]
    for row in rows:
        values = (row.paper_start, row.paper_policy)
        paper = " -> ".join("not published" if value is None else number(value) for value in values)
        ours = f"{number(row.ours.start)} -> {number(row.ours.policy)}, {change(row.ours).strip()}"
        print(f"  {row.column}: paper {paper}; ours {ours}", flush=True)
    main_rows = {
        policy: {benchmark_of(item): main_row(item) for item in of_policy} for policy, of_policy in scores.items()
    }
    joint = joint_rows(main_rows) if config.parts else []
    for line in joint:
        cells = (f"{policy}: {'not measured' if cell is None else cell}" for policy, cell in line.cells.items())
        print(f"  {line.metric} on {line.benchmark}", *cells, sep="\n    ", flush=True)
    uri = store.uri(f"papers/{config.page or config.name}/index.html")
    content = PaperContent(
        title=f"{config.page or config.name}, beside the paper",
        summary=[config.claim, f"Row of the paper: {config.row or 'none, its numbers are not known here'}."],
        rows=rows,
        joint=joint,
        others={
            name: [*headlines(of_policy), *agreements(consistency_of(store, name))]
            for name, of_policy in scores.items()
        },
        command=" ".join(["python", *sys.argv]),
        links={name: quote(f"../../reports/{name}/index.html") for name in measured},
    )
    write_bytes(uri, render(content).encode())
    say(f"paper: {uri}")


PRESETS: dict[str, Any] = {"list": Listing(), **(every := experiments()), **toys(every)}

if __name__ == "__main__":
    run(main, PRESETS, "Run an experiment of the paper.", USUAL)
