"""The experiments of the paper, which jobs/paper.py runs: at the paper's size, and in the toy world."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import full
import sweep
import test_time
from presets import LLAVA_13B_TRAIN
from seva_ray.augmentations import AUGMENTATIONS, BEYOND_SEVA
from seva_ray.dpo.config import Loss
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.stages.consistency import Consistency

Base = TypeVar("Base")
NUM_PROMPTS = 16_000
"""Prompts of the released recipe: two questions about each of 4,000 images of OCR-VQA, and 8,000 of TextVQA."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all experiments have."""

    claim: str
    """What the paper shows with it."""
    page: str = ""
    """Names the page, `papers/<page>/index.html`."""
    row: str = ""
    """The row of the paper's table that stands beside the results."""
    plan: bool = False
    """Only print what the experiment takes."""
    num_prompts: int = NUM_PROMPTS
    """Number of prompts, which the plan needs if they are not prepared yet."""
    rates: Rates = field(default_factory=Rates)
    """Measured speeds, which the plan needs. A plan without them counts the work, and gives no hours."""
    fleet: Fleet = field(default_factory=Fleet)
    """The cluster that the plan is made for."""


@dataclass(frozen=True, kw_only=True)
class Run(Experiment, full.Full):
    """An experiment that trains one policy, or one for each method or model."""

    parts: tuple[str, ...] = ()
    """Train one policy for each, and show all on one page: methods (seva, sft, gt, gt-sft), or model directories."""

    def policies(self) -> list["Run"]:
        """Returns one run for each part."""
        return [part_of(self, part) for part in self.parts] or [self]


@dataclass(frozen=True, kw_only=True)
class Study(Experiment, sweep.Sweep):
    """An experiment over many settings."""


@dataclass(frozen=True, kw_only=True)
class Views(Experiment, test_time.TestTime):
    """An experiment without training."""


TABLE_3: dict[str, dict[str, Any]] = {
    "seva": {},
    "sft": {"loss": "sft"},
    "gt": {"chosen": "ground-truth"},
    "gt-sft": {"chosen": "ground-truth", "loss": "sft"},
}
"""The methods of the paper's table 3, by what each sets: SeVa; fine-tuning on its chosen answers; DPO against the data
set's own answers; fine-tuning on these."""


def part_of(config: Run, part: str) -> Run:
    """The run of one method, or of one model. It has the name of the experiment that runs it alone."""
    if part in TABLE_3:
        method = TABLE_3[part]
        loss = Loss(name=method["loss"]) if "loss" in method else config.train.loss
        name = config.name if part == "seva" else f"{config.name}-{part}"
        chosen = method.get("chosen", config.chosen)
        return replace(config, parts=(), name=name, chosen=chosen, train=replace(config.train, loss=loss))
    last = part.rstrip("/").rpartition("/")[2]
    size = next((size for size in ("13b", "7b") if size in last), last)
    trained = LLAVA_13B_TRAIN if size == "13b" else config.train
    return replace(config, parts=(), name=f"{config.name}-{size}", model=part, train=trained)


def made(kind: type[Base], preset: Any, **values: Any) -> Base:
    """An experiment of this kind with the fields of another job's preset."""
    return kind(**{item.name: getattr(preset, item.name) for item in fields(preset)} | values)


def experiments() -> dict[str, Run | Study | Views]:
    """All experiments at the paper's size."""
    rows, study, views = full.PRESETS, sweep.PRESETS["llava-7b"], test_time.PRESETS["llava-7b"]
    seven = rows["llava-7b"]
    grid = replace(study.search, scheduler="none")
    space = replace(study.space, views=("diffusion-500",), betas=())

    def over(name: str, claim: str, **axes: Any) -> Study:
        every = replace(study.train, num_pairs=None)
        return made(Study, study, name=name, claim=claim, space=replace(space, **axes), search=grid, train=every)

    methods = made(Run, seven, parts=tuple(TABLE_3), claim="Table 3: SeVa beside the methods below, on one page.")
    every: dict[str, Run | Study | Views] = {
        "main-7b-diffusion500": made(
            Run, seven, row="SeVa-7B diffusion-500", claim="Main table, 7B, pairs by noise of step 500.",
        ),
        "main-7b-diffusion800": made(
            Run, rows["llava-7b-diffusion800"], row="SeVa-7B diffusion-800",
            claim="Main table, 7B, pairs by noise of step 800, cut to 4,300 + 6,500.",
        ),
        "main-7b-moco": made(
            Run, rows["llava-7b-moco"], row="SeVa-7B moco", claim="Main table, 7B, pairs by MoCo's augmentation.",
        ),
        "main-13b": made(
            Run, rows["llava-13b"], claim="Main table, 13B, noise of step 500: the paper has +5.6 in MM-Vet.",
        ),
        "main-13b-diffusion800": made(
            Run, rows["llava-13b-diffusion800"], claim="13B, noise of step 800, cut as for 7B.",
        ),
        "main-13b-moco": made(Run, rows["llava-13b-moco"], claim="13B, MoCo's augmentation."),
        "table-size": made(
            Run, seven, name="llava", parts=("llava-1.5-7b-hf", "llava-1.5-13b-hf"),
            claim="Model size: the same recipe at 7B and at 13B, on one page.",
        ),
        "fig1": over("paper-fig1", "Figure 1: three samples of prompts.", prompt_seeds=(0, 1, 2)),
        "fig2": made(Views, views, claim="Figure 2: augmentation at test time, without training, hurts."),
        "fig5": made(Run, seven, claim="Figure 5: answers get longer, and win a competition (--judged.competition)."),
        "ablation-augmentation": over(
            "paper-augmentation", "Ablation: augmentations of medium strength are best; rand_flip is too weak.",
            views=(*(name for name in AUGMENTATIONS if name not in ("diffusion", *BEYOND_SEVA)), *space.views),
        ),
        "ablation-step": over("paper-step", "Ablation: the noise step.", views=("diffusion-100:900:100",)),
        "ablation-data": over(
            "paper-data", "Ablation: more data is better (here in pairs, in the paper 2,000 to 16,000 prompts).",
            curve=(1350, 2700, 5400),
        ),
        "ablation-source": over(
            "paper-source", "Ablation: the data set that prompts come from, about 8,000 prompts of each.",
            sources=("ocr_vqa", "textvqa", "gqa", "vg", "coco"),
        ),
        "ablation-beta": over("paper-beta", "Ablation: DPO's beta.", betas=(0.01, 0.05, 0.1, 0.2, 0.5)),
        "ablation-rank": over("paper-rank", "Ablation: the adapter's rank.", lora_ranks=(64, 128, 256, 512, 1024)),
        "table-methods": methods,
        "table-sft": replace(part_of(methods, "sft"), claim="Table 3: continual SFT on the chosen answers."),
        "table-gt": replace(
            part_of(methods, "gt"), claim="Table 3: DPO against ground truth, the data set's own answers as chosen.",
        ),
        "table-gt-sft": replace(part_of(methods, "gt-sft"), claim="Table 3: continual SFT on the data set's answers."),
        "table-consistency": made(
            Run, seven, consistency=Consistency(num_answers=5),
            claim="Consistency of sampled answers, by equal answers and shared words (in the paper by GPT-4).",
        ),
    }  # fmt: skip
    every["ablation-source"] = replace(every["ablation-source"], num_prompts=8000)
    return {name: replace(item, page=name) for name, item in every.items()}


FEW_VIEWS = {
    "ablation-augmentation": ("rand_flip", "diffusion-300", "moco"),
    "ablation-step": ("diffusion-200:800:300",),
}
"""The views of experiments over many views in the toy world."""


def toys(every: dict[str, Run | Study | Views]) -> dict[str, Run | Study | Views]:
    """Each experiment in the toy world: the same views and axes, with few values and one seed."""
    found: dict[str, Run | Study | Views] = {}
    toy, study, views = full.PRESETS["toy"], sweep.PRESETS["toy"], test_time.PRESETS["toy"]
    small = replace(study.train, num_pairs=250)
    for name, item in every.items():
        about = {"claim": f"In the toy world: {item.claim}", "page": f"toy-{name}", "num_prompts": 5_000}
        if isinstance(item, Views):
            found[f"toy-{name}"] = made(Views, views, **about, views=("diffusion-300", "moco"))
        elif isinstance(item, Study):
            axes = {axis: getattr(item.space, axis)[:2] for axis in ("betas", "prompt_seeds")}
            axes["lora_ranks"] = (4, 16) if item.space.lora_ranks else ()
            axes["curve"] = (60, 125) if item.space.curve else ()
            axes["sources"] = ("deployment", "clean") if item.space.sources else ()  # its cameras stand for data sets
            space = replace(item.space, views=FEW_VIEWS.get(item.page, item.space.views), **axes)
            found[f"toy-{name}"] = made(
                Study, study, **about | {"num_prompts": 2_500}, name=f"toy-{item.name}", space=space, train=small,
                seeds=(0,), models=("toy-1",),
            )  # fmt: skip
        else:
            are_methods = set(item.parts) <= TABLE_3.keys()
            # The toy world has one size, but several base models.
            parts = item.parts if are_methods else ("toy-1", "toy-2")
            found[f"toy-{name}"] = made(
                Run, toy, **about, parts=parts, controls=(), views=item.views, chosen=item.chosen,
                name="toy-size" if not are_methods else f"toy-{item.name.removeprefix('llava-')}",
                train=replace(toy.train, loss=item.train.loss), consistency=replace(item.consistency, num_prompts=50),
            )  # fmt: skip
    return found
