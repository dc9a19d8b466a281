"""bench-regenerate: how often a regenerated scene has another right answer, by strength -> build/bench/regenerate.json.

    python -m bench.regenerate          fifteen minutes at the first time, of which the diffusion model takes ten

A small diffusion model learns unlabelled scenes of the toy world (toy/ddpm.py). It regenerates held-out scenes at each
strength, and each picture is read back (bench/read_scene.py). A question's right answer has changed if the scene that
was read has another one, or none. Strength 0 is the picture itself: what is counted there are mistakes of the reading.
`build/bench/regenerate.png` shows some scenes at all strengths.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.read_scene import read_scene, right_answer
from seva_ray.core.checks import check_choice, check_least
from seva_ray.core.seeds import key_of
from seva_ray.engines.img2img import Regeneration, Regenerator
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.toy.world import CAMERAS, Scene, make_scene, questions, render

RESULTS = Path("build/bench/regenerate.json")
PICTURE = Path("build/bench/regenerate.png")
KINDS = ("color", "shape", "where", "count", "exist", "ocr", "describe")
SHOWN, ZOOM, GAP_PX = 6, 3, 6


@dataclass(frozen=True, kw_only=True)
class BenchRegenerate:
    """What is measured."""

    pipeline: str = "build/bench/toy-ddpm"
    """The diffusion model. It is trained first if it does not exist."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    num_images: int = 100
    """Number of held-out scenes."""
    num_steps: int = 50
    """Denoising steps from pure noise."""
    camera: str = "deployment"
    """The camera that sees the scenes."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_images", "num_steps")
        check_choice(self, "camera", tuple(CAMERAS))


def main(config: BenchRegenerate) -> None:
    if not Path(config.pipeline).exists():
        from seva_ray.toy.ddpm import DiffusionRecipe, train

        trained = train(DiffusionRecipe(camera=config.camera), config.pipeline, report=say)
        say(f"regenerate: trained {config.pipeline} in {trained['seconds']:.0f} s, last loss {trained['loss']}")
    scenes = [make_scene(0, "test", index) for index in range(config.num_images)]
    pictures = [Image.fromarray(render(scene, CAMERAS[config.camera])) for scene in scenes]
    regenerator = Regenerator(Regeneration(pipeline=config.pipeline, num_steps=config.num_steps), config.pipeline)
    made, rows = {0.0: pictures}, []
    for strength in (0.0, *config.strengths):
        if strength:
            seeds = [key_of(0, "regenerate", index, f"{strength:g}") for index in range(len(pictures))]
            made[strength] = regenerator(pictures, strength, seeds)
        rows.append({"strength": strength} | changed_shares(scenes, made[strength], config.camera))
        say(f"regenerate: strength {strength:g}: {rows[-1]['all']:.1%} of the right answers changed")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    Image.fromarray(grid(list(made.values()))).save(PICTURE)
    print(table(rows))


def changed_shares(scenes: Sequence[Scene], pictures: Sequence[Image.Image], camera: str) -> dict[str, float]:
    """The share of questions whose right answer has changed, of all and of each kind."""
    changed: dict[str, list[bool]] = {"all": [], **{kind: [] for kind in KINDS}}
    for scene, picture in zip(scenes, pictures, strict=True):
        found = read_scene(np.asarray(picture), CAMERAS[camera])
        for question in questions(scene):
            differs = right_answer(question, found) != question.answer
            changed[question.kind].append(differs)
            changed["all"].append(differs)
    return {kind: float(np.mean(values)) for kind, values in changed.items()}


def table(rows: Sequence[dict[str, float]]) -> str:
    titles = ["strength", "all", *KINDS]
    lines = ["share of right answers that changed, %", "".join(f"{title:>10}" for title in titles)]
    for row in rows:
        lines.append(f"{row['strength']:>10g}" + "".join(f"{100 * row[title]:>10.1f}" for title in titles[1:]))
    return "\n".join(lines)


def grid(columns: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """The first scenes, one in a row, at all strengths: uint8 (height, width, 3)."""
    side = columns[0][0].width * ZOOM
    step = side + GAP_PX
    page = np.full((SHOWN * step + GAP_PX, len(columns) * step + GAP_PX, 3), 255, np.uint8)
    for column, pictures in enumerate(columns):
        for row, picture in enumerate(pictures[:SHOWN]):
            top, left = GAP_PX + row * step, GAP_PX + column * step
            page[top : top + side, left : left + side] = np.asarray(picture).repeat(ZOOM, 0).repeat(ZOOM, 1)
    return page


if __name__ == "__main__":
    run(main, {"default": BenchRegenerate()}, "Measure how often a regenerated scene has another right answer.")
