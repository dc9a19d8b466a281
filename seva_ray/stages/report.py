"""report: the results of a run -> the artifact `reports/<name>`, one self-contained HTML file."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.augmentations import CLEAN, CONTROLS
from seva_ray.core.artifacts import Artifact, StageTime, Store
from seva_ray.core.errors import ConfigError, UserError
from seva_ray.core.node_cache import local_directory
from seva_ray.core.provenance import versions
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import read_bytes, read_table, write_bytes
from seva_ray.pages.run_content import Funnel, ReportContent, Sample, ScoreTable
from seva_ray.pages.run_page import render
from seva_ray.pairs.files import files_of, lineage
from seva_ray.runtime.progress import say
from seva_ray.stages import answers
from seva_ray.stages.consistency import consistency_of
from seva_ray.stages.pair import ANY
from seva_ray.stages.repeats import repeats_of
from seva_ray.stages.results import headlines
from seva_ray.stages.score_files import protocol_of, read_comparisons, scores_of, title_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model
from seva_ray.vlm.views import Viewer


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report shows."""

    num_samples: int = 12
    """Number of pairs in the sample grid."""
    num_flips: int = 2
    """Number of questions of each benchmark that the policy gained, and as many that it lost, shown with pictures."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_flips"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must not be negative")


def report(config: Report, store: Store, name: str, command: str, began: float) -> str:
    """Write the page about policy `name` from its artifact and those that it was made from. Returns the page's URI.

    An existing page is replaced. `began` is when this run started, Unix time in s; older artifacts count as reused.
    """
    trained = store.find(f"policies/{name}")
    pairs = store.find(next(iter(trained.recipe["inputs"])))
    prompts, chosen, rejected = lineage(store, pairs)
    start, recipe = Model(**trained.counts["start"]), chosen.recipe["config"]
    encoder = Encoder(local_directory(start.directory), recipe["system"])
    draw = partial(picture, encoder, recipe)
    scores = scores_of(store, name)
    floors = controls(store, pairs)
    answered = [item for item in scores if "harness" not in item.counts]
    of_policy = [store.find(item) for score in answered for item in list(score.recipe["inputs"])[1:]]
    made = {"prepare": prompts, "generate": rejected[-1], "pair": pairs, "train": trained}
    made |= {"generate for the scores": max(of_policy, key=lambda item: item.seconds)} if of_policy else {}
    made |= {f"evaluate {score.name.split('/')[1]}": score for score in scores}
    content = ReportContent(
        title=f"seva_ray: {name}",
        summary=[*headlines(scores), *summary(trained, pairs, floors)],
        funnels=funnels(pairs, floors),
        samples=samples(config, encoder, prompts, rejected, pairs),
        training=[row for row in json.loads(read_bytes(trained.path("log.json"))) if "loss" in row],
        scores=[
            ScoreTable(
                benchmark=title_of(item),
                protocol=protocol_of(item),
                comparisons=read_comparisons(item),
                notes=answers.notes(item),
                num_policies=len(item.counts.get("policies", [name])),
                unit="questions" if "harness" in item.counts else "images",
            )
            for item in sorted([*scores, *repeats_of(store, name)], key=answers.benchmark_of)
        ],
        consistency=[answers.consistency(item) for item in consistency_of(store, name)],
        lengths=[answers.lengths(store, item) for item in answered],
        hallucinated=[answers.hallucinated(item) for item in scores if "hallucinated" in item.counts],
        flips=[flip for item in scores for flip in answers.flips(store, item, config.num_flips, draw)],
        seconds=[
            StageTime(stage=stage, seconds=item.seconds, reused=item.finished < began) for stage, item in made.items()
        ],
        config={item.name: item.recipe["config"] for item in (prompts, chosen, *rejected, pairs, trained, *scores)},
        versions=versions(),
        command=command,
    )
    uri = store.uri(f"reports/{name}/index.html")
    write_bytes(uri, render(content).encode())
    say(f"report: {uri}")
    return uri


def controls(store: Store, pairs: Artifact) -> list[Artifact]:
    """The pairs of the control views, if they exist: they show how many answers differ without an augmentation."""
    prefix = pairs.name.rsplit("/", 1)[0]
    return [store.find(name) for name in store.names(prefix) if name.removeprefix(f"{prefix}/") in CONTROLS]


def funnels(pairs: Artifact, floors: Sequence[Artifact]) -> list[Funnel]:
    """One funnel for each view, before them one for all views if there are several, and after them the controls."""
    found = {} if len(pairs.counts["views"]) == 1 else {ANY: pairs.counts["verdicts"]}
    for artifact in (pairs, *floors):
        found |= artifact.counts["views"]
    num_prompts = pairs.counts["num_prompts"]
    return [Funnel(view=view, num_prompts=num_prompts, verdicts=verdicts) for view, verdicts in found.items()]


def summary(trained: Artifact, pairs: Artifact, floors: Sequence[Artifact]) -> list[str]:
    kept, num_prompts = pairs.counts["verdicts"]["kept"], pairs.counts["num_prompts"]
    views = " and ".join(pairs.counts["views"])
    lines = [
        f"{trained.counts['start']['name']} answered {num_prompts:,} prompts on the image and on its {views} view; "
        f"{kept:,} pairs ({kept / num_prompts:.1%}) were kept.",
    ]
    for floor in floors:
        (view,) = floor.counts["views"]
        unequal = floor.counts["verdicts"]["kept"]
        lines.append(
            f"On the clean image, answered again ({view}), {unequal:,} answers ({unequal / num_prompts:.1%}) would "
            "have been kept: they differ because of the engine's rounding, not because of the augmentation."
        )
    lines.append(
        f"DPO on {trained.counts['num_pairs']:,} pairs for {trained.counts['num_steps']:,} steps made the policy."
    )
    return lines


def samples(
    config: Report, encoder: Encoder, prompts: Artifact, rejected: Sequence[Artifact], pairs: Artifact
) -> list[Sample]:
    """Kept pairs from the first shards, chosen by a hash of prompt_id, with one rejected response of each."""
    rows: list[dict[str, Any]] = []
    for uri in files_of(pairs):
        rows += read_table(uri).slice(0, 4 * config.num_samples).to_pylist()
        if len(rows) >= 16 * config.num_samples:
            break
    rows.sort(key=lambda row: key_of(0, "sample", row["prompt_id"]))
    recipe = rejected[0].recipe["config"]
    viewer = viewer_of(encoder, recipe, prompts, seed=recipe["augmentation"]["seed"])
    shown = []
    for place, row in enumerate(rows[: config.num_samples]):
        answer = row["rejected"][place % len(row["rejected"])]
        try:
            clean, augmented = (png(viewer, viewer.pixels(row, view)) for view in (CLEAN, answer["view"]))
        except (UserError, OSError) as error:
            say(f"report: sample {row['prompt_id']} is left out ({error})")
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


def viewer_of(encoder: Encoder, recipe: Mapping[str, Any], prompts: Artifact, seed: int = 0) -> Viewer:
    """A viewer that sees the prompts as generation with this `recipe` did."""
    return Viewer(
        encoder=encoder,
        image_root=prompts.counts["image_root"],
        max_pixels=recipe["max_image_pixels"],
        seed=seed,
    )


def picture(encoder: Encoder, recipe: Mapping[str, Any], prompts: Artifact, row: Mapping[str, Any]) -> bytes:
    """The picture of one prompt as PNG; empty if its image cannot be read."""
    viewer = viewer_of(encoder, recipe, prompts)
    try:
        return png(viewer, viewer.pixels(row, CLEAN))
    except (UserError, OSError) as error:
        say(f"report: there is no picture of {row['prompt_id']} ({error})")
        return b""


def png(viewer: Viewer, pixels: np.ndarray) -> bytes:
    """The pixels that the model saw, as an 8-bit PNG image to look at."""
    processor = viewer.encoder.image_processor
    scale, shift = (np.array(getattr(processor, name))[:, None, None] for name in ("image_std", "image_mean"))
    levels = np.clip(np.rint((pixels * scale + shift) * 255), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()
