"""Scenes with pictures and questions that the toy model learns from and is tested on, and its answers.

In: a seed, a split and a number of scenes. Out: the labels and packed rows for training, and accuracies by kind.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seva_ray.toy import packed
from seva_ray.toy.habits import habit_questions, habit_scene
from seva_ray.toy.world import COLOR_NAMES, SHAPES, SIGN_WORDS, SIZE_PX, Question, Scene, make_scene, questions, render

LABEL_WORDS = (SHAPES, COLOR_NAMES, SIGN_WORDS)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Scenes, their clean pictures (uint8, one per scene) and their questions."""

    scenes: list[Scene]
    pictures: np.ndarray
    asked: list[list[Question]]

    @classmethod
    def make(cls, seed: int, split: str, num_images: int) -> "Lessons":
        scenes = [make_scene(seed, split, index) for index in range(num_images)]
        pictures = np.stack([render(scene) for scene in scenes])
        return cls(scenes=scenes, pictures=pictures, asked=[questions(scene) for scene in scenes])

    @classmethod
    def of_habits(cls, seed: int, num_images: int) -> "Lessons":
        """The lessons of the world of habits."""
        scenes = [habit_scene(seed, index) for index in range(num_images)]
        pictures = np.stack([render(scene) for scene in scenes])
        return cls(scenes=scenes, pictures=pictures, asked=[habit_questions(scene) for scene in scenes])

    def pixels(self, chosen: np.ndarray, size: tuple[int, int] = (SIZE_PX, SIZE_PX)) -> Tensor:
        """The chosen pictures, stretched to this height and width, as normalised pixels."""
        height, width = size
        pictures = self.pictures[chosen]
        if size != pictures.shape[1:3]:
            stretched = (Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in pictures)
            pictures = np.stack([np.asarray(one) for one in stretched])
        return packed.normalised(pictures)

    def rows(self) -> list[packed.Row]:
        """The token ids of the questions and answers of each image."""
        return [
            [(packed.question_ids(question.text), packed.answer_ids(question.answer)) for question in of_image]
            for of_image in self.asked
        ]


def patch_labels(scene: Scene) -> np.ndarray:
    """Shape, colour and sign word at each of the 36 patches, int64 (36, 3): 1 + the index in LABEL_WORDS, or 0."""
    labels = np.zeros((6, 6, 3), np.int64)
    for thing in scene.things:
        row, column = thing.cell // 3 * 2, thing.cell % 3 * 2
        what = SHAPES.index(thing.shape) + 1, COLOR_NAMES.index(thing.color) + 1
        labels[row : row + 2, column : column + 2, :2] = what
    if scene.sign:
        row = scene.sign.row * 2
        labels[row : row + 2, 1:5, 2] = SIGN_WORDS.index(scene.sign.word) + 1
    return labels.reshape(36, 3)


def labels_of(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Labels of patches, (B, 36, 3), for the tokens of a grid of height x width: those at the middle of each token."""
    rows, columns = (((np.arange(number) + 0.5) * 6 / number).astype(int) for number in grid)
    return labels.reshape(-1, 6, 6, 3)[:, rows][:, :, columns].reshape(len(labels), -1, 3)


def batches_of_like_length(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield batches of row numbers without end. The rows of a batch have similar lengths, which saves padding."""
    while True:
        drawn = rng.integers(0, len(lengths), batch_size * 16)
        drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
        yield from rng.permutation(drawn.reshape(16, batch_size))


@torch.inference_mode()
def answers(model: Any, pixels: Tensor, asked: list[list[Question]]) -> list[list[str]]:
    """Returns greedy answers to the questions of each image."""
    model.eval()
    parts = [packed.prefix(model, part) for part in pixels.split(128)]
    before = packed.Prefix(embeds=torch.cat([part.embeds for part in parts]), positions=parts[0].positions)
    prompts = [(image, question.text) for image, of_image in enumerate(asked) for question in of_image]
    texts = iter([packed.text(ids) for ids in packed.greedy(model, before, prompts)])
    return [[next(texts) for _ in of_image] for of_image in asked]


def accuracy_by_kind(model: Any, lessons: Lessons) -> dict[str, float]:
    """The share of the answers that is exactly right (0-1), by kind of question."""
    given = answers(model, packed.normalised(lessons.pictures), lessons.asked)
    right = defaultdict(list)
    for of_image, texts in zip(lessons.asked, given, strict=True):
        for question, text in zip(of_image, texts, strict=True):
            right[question.kind].append(text == question.answer)
    return {kind: round(float(np.mean(values)), 4) for kind, values in sorted(right.items())}
