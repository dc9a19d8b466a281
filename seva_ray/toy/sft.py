"""Train a toy base from scratch: first the vision tower, then LLaVA-style instruction tuning on the biased world.

In: a `ToyRecipe`. Out: a model directory, and counts, held-out accuracies and seconds. Training is in float32. The same
recipe and number of threads give the same weights. It takes two to three minutes on one CPU core.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, rms_norm

from seva_ray.core.errors import UserError
from seva_ray.core.seeds import generator
from seva_ray.toy import packed
from seva_ray.toy.families import FAMILIES, family_of
from seva_ray.toy.lessons import (
    LABEL_WORDS,
    Lessons,
    accuracy_by_kind,
    batches_of_like_length,
    labels_of,
    patch_labels,
)
from seva_ray.toy.model import UNK
from seva_ray.toy.optimizer import Optimizer
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.toy.second_thread import second_thread

Report = Callable[[str], None]

HABIT_IMAGES_PER_STEP = 42
"""Number of scenes of the world of habits that are made for each step in it: a few more than a step shows."""


def train(recipe: ToyRecipe, directory: str | Path, report: Report = print, num_threads: int = 1) -> dict[str, Any]:
    """Train by the recipe and save to `directory`. Returns counts, held-out accuracies (0-1) and seconds.

    Another number of threads changes the rounding, so that the weights differ a little. More threads help only if cores
    are idle. On a busy machine OpenMP's threads spin while they wait: two took ten times as long as one, unless the
    process was started with OMP_WAIT_POLICY=PASSIVE.

    Raises: UserError if the yes/no accuracy stays below the recipe's gate_accuracy; then nothing is saved.
    """
    started, family = time.perf_counter(), FAMILIES[recipe.family]
    with _threads(num_threads):
        lessons = Lessons.make(recipe.seed, "sft", recipe.num_images)
        held_out = Lessons.make(recipe.seed, "test", recipe.num_gate_images)
        report(f"toy base: made {recipe.num_images} scenes in {time.perf_counter() - started:.0f} s")
        model = family.build(recipe.seed)
        train_vision(model, lessons, recipe, report)
        vision_seconds = time.perf_counter() - started
        train_language(model, lessons, recipe, report)
        steps, accuracy = recipe.sft_steps, accuracy_by_kind(model, held_out)
        while accuracy["exist"] < recipe.gate_accuracy:
            if steps == recipe.sft_steps + recipe.max_extra_rounds * recipe.extra_steps:
                raise UserError(
                    f"the toy base is right on {accuracy['exist']:.0%} of held-out yes/no questions after {steps} "
                    f"steps, but gate_accuracy asks for {recipe.gate_accuracy:.0%}: try another seed"
                )
            report(f"toy base: yes/no accuracy {accuracy['exist']:.2f} is too low: {recipe.extra_steps} more steps")
            train_language(model, lessons, recipe, report, extra_after=steps)
            steps, accuracy = steps + recipe.extra_steps, accuracy_by_kind(model, held_out)
        if recipe.habit_steps:
            train_habits(model, recipe, report, after=steps)
            accuracy = accuracy_by_kind(model, held_out)
    report("toy base: held-out accuracy " + ", ".join(f"{kind} {value:.2f}" for kind, value in accuracy.items()))
    family.save(model, directory)
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_threads": num_threads,
        "sft_steps": steps,
        "accuracy": accuracy,
        "vision_seconds": round(vision_seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


@contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    """Let torch compute with `num_threads` threads inside the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_vision(model: Any, lessons: Lessons, recipe: ToyRecipe, report: Report) -> None:
    """Train tower and projector to give every patch the words of what it shows: shape, colour and sign.

    The score of a word is its embedding's dot product with the patch, as in CLIP; `<unk>` stands for nothing. Because
    image features are close to the language model's words, it learns in few steps to look things up in the image.
    """
    family, embed = family_of(model), model.model.language_model.embed_tokens
    words = [torch.tensor([UNK, *(packed.IDS[word] for word in kind)]) for kind in LABEL_WORDS]
    # A sign's word is rare and the hardest to see, so patches without a sign count only a fifth.
    weights = [None, None, torch.tensor([0.2] + [1.0] * len(LABEL_WORDS[2]))]
    labels = np.stack([patch_labels(scene) for scene in lessons.scenes])
    tower, layers, projector = family.vision_parts(model)
    matrices = [p for module in (layers, projector) for p in module.parameters() if p.ndim == 2]
    taken = {id(matrix) for matrix in matrices}
    rest = [p for module in (*tower, projector, embed) for p in module.parameters() if id(p) not in taken]
    rng, sizes = generator(recipe.seed, "toy vision order"), sizes_of(model, recipe, "vision")
    with second_thread(model) as second:
        optimizer = Optimizer(
            num_steps=recipe.vision_steps,
            muon=(matrices, recipe.vision_muon_learning_rate),
            adamw=[(rest, recipe.learning_rate)],
            second=second,
        )
        for _ in progress("vision", recipe.vision_steps, report):
            chosen, (height, width) = rng.integers(0, len(lessons.scenes), recipe.vision_batch_size), next(sizes)
            features = family.image_features(model, lessons.pixels(chosen, (height, width))).flatten(0, 1)
            patches = rms_norm(features, features.shape[-1:])
            grid = height // family.TOKEN_PX, width // family.TOKEN_PX
            wanted = torch.from_numpy(labels_of(labels[chosen], grid)).flatten(0, 1).unbind(-1)
            losses = [
                cross_entropy(4 * patches @ embed.weight[ids].T, want, weight)
                for ids, want, weight in zip(words, wanted, weights, strict=True)
            ]
            optimizer.step(torch.stack(losses).sum())


def train_language(model: Any, lessons: Lessons, recipe: ToyRecipe, report: Report, extra_after: int = 0) -> None:
    """Tune the whole model on instructions, or run an extra round if `extra_after` steps have been made already."""
    num_steps, peak = (recipe.extra_steps, 0.5) if extra_after else (recipe.sft_steps, 1.0)
    tune(model, lessons, recipe, report, num_steps, peak, extra_after)


def train_habits(model: Any, recipe: ToyRecipe, report: Report, after: int) -> None:
    """Tune the model in the world of habits, after `after` steps in the usual one."""
    lessons = Lessons.of_habits(recipe.seed, HABIT_IMAGES_PER_STEP * recipe.habit_steps)
    tune(model, lessons, recipe, report, recipe.habit_steps, 0.5, after)


def tune(
    model: Any, lessons: Lessons, recipe: ToyRecipe, report: Report, num_steps: int, peak: float, extra_after: int
) -> None:
    """Train all weights on the answers of the lessons. `peak`: factor on the recipe's learning rates."""
    tower = [parameter for part in family_of(model).vision_parts(model)[0] for parameter in part.parameters()]
    matrices = [p for p in model.model.language_model.layers.parameters() if p.ndim == 2]
    taken = {id(parameter) for parameter in [*tower, *matrices]}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    rows = lessons.rows()
    lengths = np.array([packed.length(row) for row in rows])
    batches = batches_of_like_length(lengths, recipe.batch_size, generator(recipe.seed, "toy sft order", extra_after))
    sizes = sizes_of(model, recipe, "sft", extra_after)
    model.train()
    with second_thread(model) as second:
        optimizer = Optimizer(
            num_steps=num_steps,
            muon=(matrices, recipe.muon_learning_rate * peak),
            adamw=[(rest, recipe.learning_rate * peak), (tower, recipe.tower_learning_rate * peak)],
            second=second,
        )
        for _ in progress("language", num_steps, report):
            chosen = next(batches)
            before = packed.prefix(model, lessons.pixels(chosen, next(sizes)))
            pack = packed.pack([rows[i] for i in chosen])
            logits, wanted, weight = packed.answer_logits(model, before, pack)
            loss = cross_entropy(logits, wanted, reduction="none")
            optimizer.step((loss * weight).sum() / weight.sum())
    model.eval()


def sizes_of(model: Any, recipe: ToyRecipe, *stage: Any) -> Iterator[tuple[int, int]]:
    """The height and width of each step's pictures, without end."""
    rng, sizes = generator(recipe.seed, "toy sizes", *stage), family_of(model).SIZES_PX
    while True:
        yield sizes[int(rng.integers(len(sizes)))]


def progress(name: str, num_steps: int, report: Report) -> Iterator[int]:
    """Count the steps, and report every 25 steps with an estimate of the time left."""
    started = time.perf_counter()
    for step in range(1, num_steps + 1):
        yield step
        if step % 25 == 0 or step == num_steps:
            spent = time.perf_counter() - started
            left = spent / step * (num_steps - step)
            report(f"toy base: {name} step {step}/{num_steps}, {spent:.0f} s, about {left:.0f} s left")
