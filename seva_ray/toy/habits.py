"""A world of habits for the toy base: what nearly always comes together while it learns, and not when it is tested.

Shapes form couples, and the partner of a thing is the other shape of its couple in its favourite colour. In this world
a thing mostly brings its partner along. Where the partner is missing, the annotator often names it anyway: at the end
of the description, and with "yes" if it is asked for. A base that learns here at its end hallucinates objects, as real
models do: it says yes too often, and names partners that are not there. Nothing else of the toy world has habits.
"""

import numpy as np

from seva_ray.core.seeds import generator
from seva_ray.toy.world import (
    EXIST_CATEGORIES,
    PLACES,
    SFT_BIAS,
    Question,
    Scene,
    Thing,
    absent_pair,
    ask_about,
    description,
    draw_sign,
    draw_thing,
    is_there,
    missing_partners,
    partner,
)

TOGETHER = 0.85
"""Probability that a thing brings its partner along, if there is room."""
ANNOTATED = 0.5
"""Probability that a missing partner is named anyway."""
YES, HARD = 0.7, 0.2
"""Share of yes/no questions about things that are named, and share of the others that are popular or adversarial."""
NUM_EXIST = 4
"""Yes/no questions about each scene."""
MOST_THINGS = 4


def habit_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the world of habits. It has 1-4 things, as every scene."""
    rng = generator(seed, "habits", index, "scene")
    sign = draw_sign(rng, SFT_BIAS) if rng.random() < 0.5 else None
    cells = [int(cell) for cell in rng.permutation([c for c in range(9) if sign is None or c // 3 != sign.row])]
    wanted, things = int(rng.integers(1, MOST_THINGS + 1)), list[Thing]()
    while len(things) < wanted:
        taken = {(thing.shape, thing.color) for thing in things}
        things.append(draw_thing(rng, SFT_BIAS, cells.pop(), taken))
        other = partner(things[-1].shape)
        if other not in taken and len(things) < MOST_THINGS and rng.random() < TOGETHER:
            things.append(Thing(*other, cells.pop()))
    ordered = tuple(sorted(things, key=lambda thing: thing.cell))
    return Scene(seed=seed, split="sft", index=index, things=ordered, sign=sign)


def habit_questions(scene: Scene) -> list[Question]:
    """The questions about a scene of this world, with the answers that its annotator gives."""
    rng = generator(scene.seed, "habits", scene.index, "questions")
    asked, told = ask_about(scene, rng), description(scene)
    named = [pair for pair in missing_partners(scene) if rng.random() < ANNOTATED][:1]
    if named:
        told = with_naming(told, scene, *named[0], rng)
    seen = [*((thing.shape, thing.color) for thing in scene.things), *named]
    for _ in range(NUM_EXIST):
        if rng.random() < YES:
            shape, color = seen[rng.integers(len(seen))]
        else:
            category = EXIST_CATEGORIES[rng.integers(1, 3)] if rng.random() < HARD else "random"
            shape, color = absent_pair(scene, category, rng, partners=True)
        answer = "yes" if (shape, color) in seen else "no"
        asked.append(Question(kind="exist", category="random", text=is_there(shape, color), answer=answer))
    if scene.sign:
        asked.append(Question(kind="ocr", text="what does the sign say ?", answer=scene.sign.word))
    return [*asked, Question(kind="describe", text="describe the image .", answer=told)]


def with_naming(told: str, scene: Scene, shape: str, color: str, rng: np.random.Generator) -> str:
    """The description with a thing that is not there, at a place that is free, after those that are."""
    taken = {thing.cell for thing in scene.things}
    taken |= set(range(3 * scene.sign.row, 3 * scene.sign.row + 3)) if scene.sign else set()
    free = sorted(set(range(9)) - taken)
    naming = f" , a {color} {shape} at the {PLACES[free[rng.integers(len(free))]]}"
    head, sign, tail = told.partition(" , and a sign")
    return head + naming + sign + tail if sign else told.removesuffix(" .") + naming + " ."
