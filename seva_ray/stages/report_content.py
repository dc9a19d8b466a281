"""report_content: what the page about a policy shows, gathered from the artifacts of its run."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, StageTime, Store
from seva_ray.core.errors import UserError
from seva_ray.core.outlines import local_outline
from seva_ray.core.provenance import versions
from seva_ray.core.reasons import FAILURES
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import exists, read_bytes, read_table
from seva_ray.pages.run_content import Funnel, ReportContent, Sample, ScoreTable
from seva_ray.pairs.files import IMPORTED, files_of, origin_of
from seva_ray.runtime.progress import say
from seva_ray.stages import answers
from seva_ray.stages.pair import ANY
from seva_ray.stages.regenerate import images_made
from seva_ray.stages.report_inputs import Report, ReportInputs
from seva_ray.stages.results import headlines
from seva_ray.stages.score_files import protocol_of, read_comparisons, title_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.image_options import image_options_of
from seva_ray.vlm.models import Model
from seva_ray.vlm.views import Viewer


def content_of(
    config: Report, store: Store, name: str, shown: ReportInputs, drawn_from: str, command: str, began: float
) -> ReportContent:
    """The content of the page about policy `name`. If an image cannot be read, a line says so, and the content does not
    keep `drawn_from`: the next run tries again. `command` and `began` are those of `report`."""
    missing: list[str] = []
    chosen, *rejected = shown.responses
    start, recipe = Model(**shown.policy.counts["start"]), chosen.recipe["config"]
    encoder = Encoder(local_outline(start.directory), recipe["system"], image_options_of(recipe))
    draw = partial(picture, encoder, recipe, missing)
    answered = [item for item in shown.scores if "harness" not in item.counts]
    made = {"prepare": shown.prompts, "generate": rejected[-1], "pair": shown.pairs, "train": shown.policy}
    made |= {"generate for the scores": max(shown.answers, key=lambda item: item.seconds)} if shown.answers else {}
    made |= {f"evaluate {score.name.split('/')[1]}": score for score in shown.scores}
    content = ReportContent(
        title=f"seva_ray: {name}",
        summary=[*headlines(shown.scores), *summary(shown.policy, shown.pairs, shown.floors)],
        funnels=funnels(shown.pairs, shown.floors),
        failures={item.name: item.counts[FAILURES] for item in shown.made() if FAILURES in item.counts},
        samples=samples(config, store, encoder, shown.prompts, rejected, shown.pairs, missing),
        training=[row for row in json.loads(read_bytes(shown.policy.path("log.json"))) if "loss" in row],
        scores=[
            ScoreTable(
                benchmark=title_of(item),
                protocol=protocol_of(item),
                comparisons=read_comparisons(item),
                notes=answers.notes(item),
                num_policies=len(item.counts.get("policies", [name])),
                unit="questions" if "harness" in item.counts else "images",
            )
            for item in sorted([*shown.scores, *shown.repeats], key=answers.benchmark_of)
        ],
        consistency=[answers.consistency(item) for item in shown.consistency],
        lengths=[answers.lengths(store, item) for item in answered],
        hallucinated=[answers.hallucinated(item) for item in shown.scores if "hallucinated" in item.counts],
        flips=[flip for item in shown.scores for flip in answers.flips(store, item, config.num_flips, draw)],
        seconds=[
            StageTime(stage=stage, seconds=item.seconds, reused=item.finished < began) for stage, item in made.items()
        ],
        config={
            item.name: item.recipe["config"]
            for item in (shown.prompts, *shown.responses, shown.pairs, shown.policy, *shown.scores)
        },
        versions=versions(),
        command=command,
        places=places(store, name, shown),
        drawn_from=drawn_from,
        origin=origin_of(shown.pairs),
    )
    return replace(content, drawn_from="") if missing else content


def places(store: Store, name: str, shown: ReportInputs) -> list[tuple[str, str]]:
    """What the page links to, if it is there: the list of runs, the pairs, the policy, its log and its curves."""
    policy, pairs = shown.policy.name, shown.pairs.name
    known = {
        "All runs of this root": "index.html",
        "Pairs, in the official JSON": f"{pairs}/pairs.json",
        "Policy, to serve with vLLM or transformers": f"{policy}/model",
        "Log of the training": f"{policy}/log.json",
        "Curves of the training, for `tensorboard --logdir`": f"{policy}/tensorboard",
    }
    up = "../" * (name.count("/") + 2)
    return [(what, up + path) for what, path in known.items() if exists(f"{store.root.rstrip('/')}/{path}")]


def funnels(pairs: Artifact, floors: Sequence[Artifact]) -> list[Funnel]:
    """Returns one funnel for each view. If there are several views, one for all of them comes first. Controls come
    last."""
    found = {} if len(pairs.counts["views"]) == 1 else {ANY: pairs.counts["verdicts"]}
    for artifact in (pairs, *floors):
        found |= artifact.counts["views"]
    num_prompts = pairs.counts["num_prompts"]
    return [Funnel(view=view, num_prompts=num_prompts, verdicts=verdicts) for view, verdicts in found.items()]


def summary(trained: Artifact, pairs: Artifact, floors: Sequence[Artifact]) -> list[str]:
    kept, num_prompts = pairs.counts["verdicts"]["kept"], pairs.counts["num_prompts"]
    views = " and ".join(pairs.counts["views"])
    if origin_of(pairs) == "imported":
        lines = [f"{kept:,} of {num_prompts:,} imported pairs ({kept / num_prompts:.1%}) were kept."]
        return [*lines, trained_on(trained)]
    model = trained.counts["start"]["name"]
    seen = f"on its {views} view; {kept:,} pairs ({kept / num_prompts:.1%}) were kept."
    if origin_of(pairs) == "ground truth":
        lines = [f"The chosen answers are the data set's own. {model} answered {num_prompts:,} prompts {seen}"]
    elif origin_of(pairs) == "contrast":
        lines = [f"The chosen answers were found by contrast. {model} answered {num_prompts:,} prompts {seen}"]
    else:
        lines = [f"{model} answered {num_prompts:,} prompts on the image and {seen}"]
    if floors:
        unequal = {view: floor.counts["verdicts"]["kept"] for floor in floors for view in floor.counts["views"]}
        shares = ", ".join(f"{number:,} ({number / num_prompts:.1%}) in {view}" for view, number in unequal.items())
        lines.append(
            f"The clean images were answered again. Answers that differ from the first ones: {shares}. Only the "
            "engine's rounding makes them differ."
        )
    return [*lines, trained_on(trained)]


def trained_on(trained: Artifact) -> str:
    loss = trained.recipe["config"]["train"]["loss"]["name"]
    method = "Fine-tuning on the chosen answers of" if loss == "sft" else "DPO on"
    return f"{method} {trained.counts['num_pairs']:,} pairs for {trained.counts['num_steps']:,} steps made the policy."


def samples(
    config: Report,
    store: Store,
    encoder: Encoder,
    prompts: Artifact,
    rejected: Sequence[Artifact],
    pairs: Artifact,
    missing: list[str],
) -> list[Sample]:
    """Kept pairs from the first shards, chosen by a hash of prompt_id, with one rejected response of each. If an image
    cannot be read, its sample is left out and `missing` gets its prompt_id."""
    rows: list[dict[str, Any]] = []
    for uri in files_of(pairs):
        rows += read_table(uri).slice(0, 4 * config.num_samples).to_pylist()
        if len(rows) >= 16 * config.num_samples:
            break
    rows.sort(key=lambda row: key_of(0, "sample", row["prompt_id"]))
    recipe = rejected[0].recipe["config"]
    seed = (recipe.get("augmentation") or {"seed": 0})["seed"]
    viewer = viewer_of(encoder, recipe, prompts, seed, made=images_made(store, prompts))
    shown = []
    for place, row in enumerate(rows[: config.num_samples]):
        answer = row["rejected"][place % len(row["rejected"])]
        try:
            views = (CLEAN, CLEAN if answer["view"] == IMPORTED else answer["view"])
            clean, augmented = (png(viewer, viewer.picture(row, view)) for view in views)
        except (UserError, OSError) as error:
            say(f"report: sample {row['prompt_id']} is left out ({error})")
            missing.append(row["prompt_id"])
            continue
        shown.append(
            Sample(
                prompt_id=row["prompt_id"],
                question=row["question"],
                view=answer["view"],
                verdict="kept",
                image_png=clean,
                augmented_png=augmented,
                chosen=row["chosen"],
                rejected=answer["text"],
            )
        )
    return shown


def viewer_of(
    encoder: Encoder,
    recipe: Mapping[str, Any],
    prompts: Artifact,
    seed: int = 0,
    made: Callable[[str, str], bytes] | None = None,
) -> Viewer:
    """A viewer that sees the prompts as generation with this `recipe` did. `made` finds regenerated images."""
    return Viewer(
        encoder=encoder,
        image_root=prompts.counts["image_root"],
        max_pixels=recipe["max_image_pixels"],
        seed=seed,
        made=made,
    )


def picture(
    encoder: Encoder, recipe: Mapping[str, Any], missing: list[str], prompts: Artifact, row: Mapping[str, Any]
) -> bytes:
    """The picture of one prompt as PNG. If its image cannot be read, it is empty, and `missing` gets its prompt_id."""
    viewer = viewer_of(encoder, recipe, prompts)
    try:
        return png(viewer, viewer.picture(row))
    except (UserError, OSError) as error:
        say(f"report: there is no picture of {row['prompt_id']} ({error})")
        missing.append(row["prompt_id"])
        return b""


def png(viewer: Viewer, pixels: np.ndarray) -> bytes:
    """A normalised picture as an 8-bit PNG image."""
    file = io.BytesIO()
    Image.fromarray(viewer.encoder.levels(pixels)).save(file, "PNG")
    return file.getvalue()
