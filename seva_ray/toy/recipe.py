"""The settings by which a toy base is trained. Importing this is fast, as it does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ToyRecipe:
    """How the toy base model is trained. Every field changes the weights."""

    kind: ClassVar[str] = "ToyRecipe"
    family: ClassVar[str] = "llava"
    """What is trained: a LLaVA."""

    seed: int = 1
    """Seed of the weights, the scenes and their order, at least 0."""
    num_images: int = 12_000
    """Number of scenes of the biased world to learn from, at least 1."""
    vision_steps: int = 250
    """Number of optimiser steps that train the vision tower, in place of CLIP's pre-training; 0 for none."""
    vision_batch_size: int = 64
    """Number of images per vision step."""
    sft_steps: int = 350
    """Number of optimiser steps of instruction tuning."""
    batch_size: int = 32
    """Number of images per step of instruction tuning. Each image comes with all its questions."""
    muon_learning_rate: float = 5e-3
    """Peak learning rate of the language model's matrices in instruction tuning."""
    learning_rate: float = 2e-3
    """Peak learning rate of embeddings, norms and projector in instruction tuning, and in the vision steps of all
    weights except the matrices."""
    tower_learning_rate: float = 3e-4
    """Peak learning rate of the vision tower in instruction tuning."""
    vision_muon_learning_rate: float = 3e-3
    """Peak learning rate of the matrices of vision tower and projector in the vision steps."""
    gate_accuracy: float = 0.75
    """Yes/no accuracy on held-out clean images (0-1) that the base must reach. A model that always says yes has 0.5."""
    num_gate_images: int = 150
    """Number of held-out clean images that the accuracy is measured on."""
    extra_steps: int = 100
    """Number of steps in each extra round, at half the learning rates, while the accuracy is too low."""
    max_extra_rounds: int = 4
    """Largest number of extra rounds. If the accuracy is still too low after them, the training fails."""
    habit_steps: int = 0
    """Number of steps at the end in the world of habits (habits.py), at half the learning rates, by which the base gets
    to hallucinate objects; 0 for none. The gate is passed before them."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_images", "vision_batch_size", "sft_steps", "batch_size")
        check_least(self, 1, "num_gate_images", "extra_steps")
        check_least(self, 0, "seed", "vision_steps", "max_extra_rounds", "habit_steps")
        rates = ("muon_learning_rate", "learning_rate", "tower_learning_rate", "vision_muon_learning_rate")
        for name in rates:
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in (0, 1), not {getattr(self, name)}")
        if not 0 <= self.gate_accuracy < 1:
            raise ConfigError(f"gate_accuracy must be in [0, 1), not {self.gate_accuracy}")


@dataclass(frozen=True, kw_only=True)
class ToyQwenRecipe(ToyRecipe):
    """The same recipe for the second toy base, a Qwen2.5-VL."""

    kind: ClassVar[str] = "ToyQwenRecipe"
    family: ClassVar[str] = "qwen2_5_vl"
