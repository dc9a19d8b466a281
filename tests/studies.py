"""A study as large as a real one, made up: seven strengths, a view without a dial and a control, at three betas."""

from typing import Any

import numpy as np

from seva_ray.core.artifacts import StageTime
from seva_ray.scoring.intervals import Comparison
from seva_ray.studies.space import SWAPPED
from seva_ray.studies.study_rows import POINT_FIELDS, StudyContent, StudyRow, ViewFacts

STEPS = (100, 300, 400, 500, 600, 700, 900)
VIEWS = (*(f"diffusion-{step}" for step in STEPS), "moco")
ARMS = (*VIEWS, f"{SWAPPED}diffusion-500")
BETAS = (0.05, 0.1, 0.2)
RUNGS = (125, 250, 500)
OBJECTIVE = ("toy-yesno", "f1")
START = 61.2


def point(arm: str = "diffusion-500", beta: float = 0.1, num_pairs: int | None = 500) -> dict[str, Any]:
    values = (arm, 1, beta, 1e-4, 16, "sigmoid", num_pairs, None, None, None)
    return dict(zip(POINT_FIELDS, values, strict=True))


def row(
    difference: float, *, half: float = 1.2, metric: tuple[str, str] = OBJECTIVE, repeats: int = 3, **where: Any
) -> StudyRow:
    at = point(**where)
    return StudyRow(
        point=at,
        benchmark=metric[0],
        metric=metric[1],
        start=START,
        policy=START + difference,
        difference=difference,
        difference_low=difference - half,
        difference_high=difference + half,
        differences=[difference + (place - (repeats - 1) / 2) * half / 2 for place in range(repeats)],
        trained_pairs=float(at["num_pairs"] or 600),
    )


def failed(error: str, **where: Any) -> StudyRow:
    return StudyRow(point=point(**where), error=error)


def gain(arm: str, beta: float, num_pairs: int, rng: np.random.Generator) -> float:
    """Best in the middle of the dial, as the paper has it; nothing from the control."""
    if arm.startswith(SWAPPED):
        return float(rng.normal(-0.3, 0.4))
    height = 3.4 if arm == "moco" else 5.5 * np.exp(-(((int(arm.split("-")[1]) - 520) / 230) ** 2)) - 0.6
    return float(height * (1.4 - 4.2 * num_pairs**-0.5) * (1 - abs(beta - 0.1) * 4) + rng.normal(0, 0.3))


def rows_of_study(rng: np.random.Generator) -> list[StudyRow]:
    """Three points were stopped after the first rung, one failed from the start, and one on its way."""
    rows = []
    for arm in ARMS:
        for beta in BETAS:
            for num_pairs in RUNGS:
                where: dict[str, Any] = {"arm": arm, "beta": beta, "num_pairs": num_pairs}
                if (arm, beta) == ("diffusion-900", 0.2):
                    rows.append(failed("training ran out of memory: 2 of 3 repeats are lost", **where))
                    break
                if (arm, beta) == ("moco", 0.05) and num_pairs == 500:
                    rows.append(failed("an engine died twice on one unit", **where))
                    break
                if arm in ("diffusion-100", f"{SWAPPED}diffusion-500") and beta != 0.1 and num_pairs > 125:
                    break
                found = gain(arm, beta, num_pairs, rng)
                rows += [
                    row(found, half=float(rng.uniform(0.7, 1.6)), **where),
                    row(found * 0.8, metric=(OBJECTIVE[0], "accuracy"), **where),
                    row(-found * 0.5, metric=("toy-caption", "chair_s"), half=2.0, **where),
                ]
    return rows


def tokens(mean: float, number: int, rng: np.random.Generator) -> list[int]:
    return np.bincount(rng.poisson(rng.gamma(6, mean / 6, size=number))).tolist()


def view_facts(view: str, rng: np.random.Generator) -> ViewFacts:
    strength = 450 if view == "moco" else int(view.split("-")[1])
    kept = int(1200 * (1 - np.exp(-((strength / 450) ** 2))))
    right = int(kept * (0.25 + 0.4 * np.exp(-(((strength - 550) / 250) ** 2))))
    wrong = int(kept * 0.12)
    return ViewFacts(
        view=view,
        num_prompts=1200,
        num_kept=kept,
        judged={"chosen right": right, "rejected right": wrong, "neither": kept - right - wrong},
        chosen_tokens=tokens(14, kept, rng),
        rejected_tokens=tokens(14 - strength / 150, kept, rng),
    )


def seen(view: str, rng: np.random.Generator) -> Comparison:
    difference = -2.0 if view == "moco" else -((int(view.split("-")[1]) / 250) ** 2) + float(rng.normal(0, 0.3))
    return Comparison(
        metric=OBJECTIVE[1], start=START, start_low=START - 2, start_high=START + 2, policy=START + difference,
        policy_low=START + difference - 2, policy_high=START + difference + 2, difference=difference,
        difference_low=difference - 1.1, difference_high=difference + 1.1, num_images=600,
    )  # fmt: skip


def whole_study() -> StudyContent:
    rng = np.random.default_rng(3)
    rows = rows_of_study(rng)
    axes = {name: (value,) for name, value in point().items()}
    stages = (("generate", 840.0), ("pair", 14.0), ("reference", 260.0), ("train", 3900.0), ("evaluate", 1210.0))
    return StudyContent(
        title="Study of toy-yesno: strength, beta and pairs",
        objective=OBJECTIVE,
        axes=axes | {"arm": ARMS, "beta": BETAS, "num_pairs": RUNGS},
        rows=rows,
        views=[view_facts(view, rng) for view in VIEWS],
        test_time={view: [seen(view, rng)] for view in VIEWS},
        start_tokens=tokens(9, 1800, rng),
        best_tokens=tokens(12, 1800, rng),
        best=point(),
        best_command="python jobs/full.py --views diffusion-500 --train.beta 0.1 --train.num-pairs 500 --name best",
        best_directory="runs/exports/study-best",
        passes_done=27,
        passes_apart=162,
        summary=[
            "Diffusion noise of a medium step helps most; half of the gain is there with 125 pairs.",
            "27 settings.",
        ],
        hours={"generate": 0.23, "reference": 0.07, "train": 1.08},
        on_gpus=True,
        seconds=[StageTime(stage=stage, seconds=seconds, reused=stage == "pair") for stage, seconds in stages],
        config={"train": {"beta": 0.1, "lora": {"rank": 16}}, "seed": 0},
        versions={"ray": "2.60.0", "vllm": "0.32.0"},
        command="python jobs/study.py --space.views diffusion-100:900:200 moco --space.betas 0.05 0.1 0.2",
    )
