"""ladder: the answers that are there to one prompt set at several noise steps -> one page of noise ladders.

It shows a few prompts: the image at every step for which the model has answered, the answers, and the step at which the
answer flips. `jobs/generate.py --views clean diffusion-100 diffusion-200 ...` makes the answers.
"""

import re
from dataclasses import dataclass
from typing import Any

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.errors import InputError
from seva_ray.core.outlines import local_outline
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import read_table, write_bytes
from seva_ray.pages.ladder_page import LadderContent, PromptLadder, Rung
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class LadderPage:
    """How much of the answers is shown."""

    num_prompts: int = 6
    """Number of prompts, chosen by a hash of their ids from the first shards."""
    only_flips: bool = False
    """Show only prompts whose answer flips at one of the steps."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_prompts")


def ladder(config: LadderPage, store: Store, model: Model, prompts: Artifact) -> str:
    """Write `ladders/<model>/<prompts>/index.html` and return its URI. Raises: InputError if the model has not answered
    in the clean view and at two noise steps."""
    responses = answers_by_step(store, model, prompts)
    of = prompts.name.removeprefix("prompts/")
    uri = store.uri(f"ladders/{model.name}/{of}/index.html")
    with waiting(f"ladder {of}: drawing the page"):
        from seva_ray.pages.ladder_page import render

        ladders = chosen(config, prompts, responses, model)
        steps = [step for step in responses if step is not None]
        flipped = sum(item.flips_at is not None for item in ladders)
        content = LadderContent(
            title=f"Noise ladders: {model.name} on {of}",
            summary=[f"Noise steps {', '.join(map(str, steps))}; {flipped} of {len(ladders)} answers shown here flip."],
            ladders=ladders,
        )
        write_bytes(uri, render(content).encode())
    say(f"ladder: {uri}")
    return uri


def answers_by_step(store: Store, model: Model, prompts: Artifact) -> dict[int | None, Artifact]:
    """The responses at each noise step, the clean ones first under None."""
    prefix = f"responses/{model.name}/{prompts.name.removeprefix('prompts/')}"
    views = {name.removeprefix(f"{prefix}/"): name for name in store.names(prefix)}
    steps = sorted(int(found.group(1)) for view in views if (found := re.fullmatch(r"diffusion-(\d+)", view)))
    if CLEAN not in views or len(steps) < 2:
        there = ", ".join(views) or "none"
        raise InputError(
            f"{prefix}: a ladder needs the clean view and two noise steps; the views there are: {there} "
            "(jobs/generate.py --views clean diffusion-100 diffusion-300 ... makes more)"
        )
    by_step: dict[int | None, Artifact] = {None: store.find(views[CLEAN])}
    return by_step | {step: store.find(views[f"diffusion-{step}"]) for step in steps}


def chosen(
    config: LadderPage, prompts: Artifact, responses: dict[int | None, Artifact], model: Model
) -> list[PromptLadder]:
    """The ladders of the page: prompts without a failed answer, from as many shards as are needed."""
    from seva_ray.stages.report_content import png, viewer_of  # with numpy and transformers
    from seva_ray.vlm.encoding import Encoder
    from seva_ray.vlm.image_options import image_options_of

    recipe = responses[None].recipe["config"]
    encoder = Encoder(local_outline(model.directory), recipe["system"], image_options_of(recipe))
    seed = next(item.recipe["config"]["augmentation"]["seed"] for step, item in responses.items() if step is not None)
    viewer = viewer_of(encoder, recipe, prompts, seed=seed)
    found: list[PromptLadder] = []
    for shard in shards_of(prompts):
        texts = {step: texts_of(item, shard) for step, item in responses.items()}
        rows = read_table(prompts.path(shard)).to_pylist()
        for row in sorted(rows, key=lambda row: key_of(0, "ladder", row["prompt_id"])):
            answers = {step: of.get(row["prompt_id"]) for step, of in texts.items()}
            kept = {step: text for step, text in answers.items() if text is not None}
            if len(kept) < len(answers) or (config.only_flips and len(set(kept.values())) == 1):
                continue
            rungs = [
                Rung(step=step, png=png(viewer, viewer.picture(row, view_of(step))), text=text)
                for step, text in kept.items()
            ]
            found.append(PromptLadder(prompt_id=row["prompt_id"], question=row["question"], rungs=rungs))
            if len(found) == config.num_prompts:
                return found
    return found


def view_of(step: int | None) -> str:
    return CLEAN if step is None else f"diffusion-{step}"


def texts_of(responses: Artifact, shard: str) -> dict[str, Any]:
    """The answers of a shard by prompt_id, without those that failed."""
    rows = read_table(responses.path(shard), columns=["prompt_id", "text", "error"]).to_pylist()
    return {row["prompt_id"]: row["text"] for row in rows if row["error"] is None}
