"""The paper, one command for each table and figure: `python jobs/paper.py` lists them.

    python jobs/paper.py main-7b-diffusion500 --plan        what it takes, before anything is run
    python jobs/paper.py main-7b-diffusion500 --model llava-1.5-7b-hf --benchmarks.pope path/to/pope ... \\
        source:llava-json --source.path llava_v1_5_mix665k.json --source.image-root images
    python jobs/paper.py toy-main-7b-diffusion500           the same experiment on the toy world, in minutes

Each is a run of jobs/full.py, jobs/sweep.py or jobs/test_time.py: it can be resumed, and shares its artifacts with all
others. Afterwards `papers/<experiment>/index.html` has the authors' numbers beside ours.
"""

import sys
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import full
import plan
import sweep
import test_time
from presets import LLAVA_13B_TRAIN, USUAL, prompts_of
from seva_ray.augmentations import AUGMENTATIONS, BEYOND_SEVA
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.storage import exists, write_bytes
from seva_ray.dpo.config import Loss
from seva_ray.pages.paper_page import PaperContent, render
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.scoring.paper_numbers import beside
from seva_ray.sources import LlavaJson, ToyWorld
from seva_ray.stages.consistency import Consistency
from seva_ray.stages.pair import Pair
from seva_ray.stages.results import change, headlines, number
from seva_ray.stages.score_files import benchmark_of, read_comparisons, scores_of

Base = TypeVar("Base")
NUM_PROMPTS = 16_000
"""Prompts of the released recipe: two questions about each of 4,000 images of OCR-VQA, and 8,000 of TextVQA."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all experiments have."""

    claim: str
    """What the paper shows with it."""
    row: str = ""
    """The row of the paper's table that stands beside the results."""
    plan: bool = False
    """Only print what the experiment takes."""
    num_prompts: int = NUM_PROMPTS
    """For the plan: the number of prompts, if they are not prepared yet."""
    rates: Rates = field(default_factory=Rates)
    """For the plan: measured speeds. A plan without them counts the work, and gives no hours."""
    fleet: Fleet = field(default_factory=Fleet)
    """For the plan: the cluster."""


@dataclass(frozen=True, kw_only=True)
class Run(Experiment, full.Full):
    """An experiment that trains one policy, or one for each data set or model size."""

    parts: tuple[str, ...] = ()
    """Train one policy for each: names of LLaVA's data sets as the only source of prompts, or model directories."""

    def policies(self) -> list["Run"]:
        """One run for each part."""
        return [part_of(self, part) for part in self.parts] or [self]


@dataclass(frozen=True, kw_only=True)
class Study(Experiment, sweep.Sweep):
    """An experiment over many settings."""


@dataclass(frozen=True, kw_only=True)
class Views(Experiment, test_time.TestTime):
    """An experiment without training."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The list of all experiments."""

    name: str = ""
    """Show only experiments whose names contain this."""


def part_of(config: Run, part: str) -> Run:
    """The run of one part: a data set, or a model."""
    source = config.source
    if isinstance(source, LlavaJson) and part in source.counts:
        alone = replace(source, counts={name: 4000 * (name == part) for name in source.counts})
        asked = 4000 * source.questions_per_image[part]
        named = {"name": f"{config.name}-{part}", "prompts": f"llava-{part}"}
        return replace(config, parts=(), source=alone, num_prompts=asked, **named)  # type: ignore[arg-type]
    trained, last = LLAVA_13B_TRAIN if "13b" in part else config.train, part.rstrip("/").rpartition("/")[2]
    return replace(config, parts=(), name=f"{config.name}-{last}", model=part, train=trained)


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
    """Print what the experiment takes. Raises: ConfigError for an experiment that the planner does not know."""
    if isinstance(config, Views):
        print(f"{len(config.views) + 1} passes of {config.model} over the questions of its benchmarks, and no training")
        return
    for policy in config.policies() if isinstance(config, Run) else [config]:
        plan.main(planned(policy))
    if isinstance(config, Study):
        num_policies = len(config.search.check(config.space, config.train)) * len(config.seeds)
        print(f"\nThe study trains up to {num_policies:,} policies; the plan above has the time of one of them.")


def planned(config: Run | Study) -> plan.PlanJob:
    """The planner's own job for one policy of the experiment."""
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
        views=tuple(config.space.plain_views()) if isinstance(config, Study) else config.views,
        controls=() if isinstance(config, Study) else config.controls,
        num_prompts=None if there else config.num_prompts,
        fleet=usual.fleet if toy and config.fleet == Fleet() else config.fleet,
        **{name: getattr(config, name) for name in names},
    )


def write_page(config: Run) -> None:
    """Print the authors' numbers beside ours, and write the page."""
    store = config.store()
    measured = {
        policy.name: {benchmark_of(item): read_comparisons(item) for item in scores_of(store, policy.name)}
        for policy in config.policies()
    }
    rows = [row for of_policy in measured.values() for row in beside(config.row, of_policy)]
    for row in rows:
        values = (row.paper_start, row.paper_policy)
        paper = " -> ".join("not published" if value is None else number(value) for value in values)
        ours = f"{number(row.ours.start)} -> {number(row.ours.policy)}, {change(row.ours).strip()}"
        print(f"  {row.column}: paper {paper}; ours {ours}", flush=True)
    uri = store.uri(f"papers/{config.name}/index.html")
    content = PaperContent(
        title=f"{config.name}, beside the paper",
        summary=[config.claim, f"Row of the paper: {config.row or 'none, its numbers are not known here'}."],
        rows=rows,
        others={name: headlines(scores_of(store, name)) for name in measured},
        command=" ".join(["python", *sys.argv]),
        links=[store.uri(f"reports/{name}/index.html") for name in measured],
    )
    write_bytes(uri, render(content).encode())
    say(f"paper: {uri}")


def made(kind: type[Base], preset: Any, **values: Any) -> Base:
    """An experiment of this kind with the fields of another job's preset."""
    return kind(**{item.name: getattr(preset, item.name) for item in fields(preset)} | values)


def experiments() -> dict[str, Run | Study | Views]:
    """All experiments at the paper's size."""
    seven, thirteen = full.PRESETS["llava-7b"], full.PRESETS["llava-13b"]
    study, views = sweep.PRESETS["llava-7b"], test_time.PRESETS["llava-7b"]
    cut = Pair(max_per_source={"ocr_vqa": 4300, "textvqa": 6500}, name="10800")
    noise = ("diffusion-500",)
    grid = replace(study.search, scheduler="none")
    space = replace(study.space, views=noise, betas=())

    def over(name: str, claim: str, **axes: Any) -> Study:
        every = replace(study.train, num_pairs=None)
        return made(Study, study, name=name, claim=claim, space=replace(space, **axes), search=grid, train=every)

    return {
        "main-7b-diffusion500": made(
            Run, seven, row="SeVa-7B diffusion-500", claim="Main table, 7B, pairs by noise of step 500.",
        ),
        "main-7b-diffusion800": made(
            Run, seven, name="llava-7b-diffusion800", views=("diffusion-800",), pair=cut, row="SeVa-7B diffusion-800",
            claim="Main table, 7B, pairs by noise of step 800, cut to 4,300 + 6,500.",
        ),
        "main-7b-moco": made(
            Run, seven, name="llava-7b-moco", views=("moco",), row="SeVa-7B moco",
            claim="Main table, 7B, pairs by MoCo's augmentation.",
        ),
        "main-13b": made(Run, thirteen, claim="Main table, 13B, noise of step 500: the paper has +5.6 in MM-Vet."),
        "main-13b-diffusion800": made(
            Run, thirteen, name="llava-13b-diffusion800", views=("diffusion-800",), pair=cut,
            claim="13B, noise of step 800, cut as for 7B.",
        ),
        "main-13b-moco": made(Run, thirteen, name="llava-13b-moco", views=("moco",), claim="13B, MoCo's augmentation."),
        "table-size": made(
            Run, seven, name="llava-size", parts=("llava-1.5-7b-hf", "llava-1.5-13b-hf"),
            claim="Model size: the same recipe at 7B and at 13B, on one page.",
        ),
        "fig1": over("paper-fig1", "Figure 1: three samples of prompts.", prompt_seeds=(0, 1, 2)),
        "fig2": made(Views, views, claim="Figure 2: augmentation at test time, without training, hurts."),
        "fig5": made(Run, seven, claim="Figure 5: answers get longer, and win a competition (--judged.competition)."),
        "ablation-augmentation": over(
            "paper-augmentation", "Ablation: augmentations of medium strength are best; rand_flip is too weak.",
            views=tuple(name for name in AUGMENTATIONS if name not in ("diffusion", *BEYOND_SEVA)) + noise,
        ),
        "ablation-step": over("paper-step", "Ablation: the noise step.", views=("diffusion-100:900:100",)),
        "ablation-data": over(
            "paper-data", "Ablation: more data is better (here in pairs, in the paper 2,000 to 16,000 prompts).",
            curve=(1350, 2700, 5400),
        ),
        "ablation-source": made(
            Run, seven, name="llava-source", parts=("ocr_vqa", "textvqa", "gqa", "vg", "coco"),
            claim="Ablation: the data set that prompts come from, 4,000 images each.",
        ),
        "ablation-beta": over("paper-beta", "Ablation: DPO's beta.", betas=(0.01, 0.05, 0.1, 0.2, 0.5)),
        "ablation-rank": over("paper-rank", "Ablation: the adapter's rank.", lora_ranks=(64, 128, 256, 512, 1024)),
        "table-sft": made(
            Run, seven, name="llava-7b-sft", train=replace(seven.train, loss=Loss(name="sft")),
            claim="Table 3: continual SFT on the chosen answers, to compare with main-7b-diffusion500.",
        ),
        "table-consistency": made(
            Run, seven, consistency=Consistency(num_answers=5),
            claim="Consistency of sampled answers, by equal answers and shared words (in the paper by GPT-4).",
        ),
    }  # fmt: skip


def toys(every: dict[str, Run | Study | Views]) -> dict[str, Run | Study | Views]:
    """Each experiment in the toy world: the same views and axes, with few values and one seed."""
    found: dict[str, Run | Study | Views] = {}
    toy, study, views = full.PRESETS["toy"], sweep.PRESETS["toy"], test_time.PRESETS["toy"]
    small = replace(study.train, num_pairs=250)
    for name, item in every.items():
        about = {"claim": f"{name} in the toy world.", "num_prompts": 5_000}
        if isinstance(item, Views):
            found[f"toy-{name}"] = made(Views, views, **about, views=("diffusion-300", "moco"))
        elif isinstance(item, Study):
            axes = {axis: getattr(item.space, axis)[:2] for axis in ("betas", "prompt_seeds")}
            axes["lora_ranks"] = (4, 16) if item.space.lora_ranks else ()
            axes["curve"] = (60, 125) if item.space.curve else ()
            shown = item.space.views if len(item.space.plain_views()) == 1 else ("rand_flip", "diffusion-300", "moco")
            space = replace(item.space, views=shown, **axes)
            found[f"toy-{name}"] = made(
                Study, study, **about | {"num_prompts": 2_500}, name=f"toy-{item.name}", space=space, train=small,
                seeds=(0,), models=("toy-1",),
            )  # fmt: skip
        elif item.parts:
            models = ("toy-1", "toy-2")  # the toy world has one source and one size, so parts are other base models
            found[f"toy-{name}"] = made(Run, toy, **about, name=f"toy-{item.name}", controls=(), parts=models)
        else:
            consistency = replace(item.consistency, num_prompts=50)
            own = f"toy-{item.name.removeprefix('llava-')}"
            trained = replace(toy.train, loss=item.train.loss)
            run_of = {"name": own, "views": item.views, "controls": (), "train": trained, "consistency": consistency}
            found[f"toy-{name}"] = made(Run, toy, **about, **run_of)
    return found


PRESETS: dict[str, Any] = {"list": Listing(), **(every := experiments()), **toys(every)}

if __name__ == "__main__":
    run(main, PRESETS, "An experiment of the paper.", USUAL)
