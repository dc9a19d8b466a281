"""How the toy base model is trained, without what trains it: importing this costs nothing."""

from dataclasses import dataclass
from typing import ClassVar

from seva_ray.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ToyRecipe:
    """How the toy base model is trained. Every field changes the weights."""

    kind: ClassVar[str] = "ToyRecipe"

    seed: int = 1
    """Of the weights, the scenes and their order; at least 0."""
    num_images: int = 12_000
    """Scenes of the biased world to learn from; at least 1."""
    vision_steps: int = 250
    """Optimiser steps that teach the vision tower what it sees, which stand in for CLIP's pre-training; 0 for none."""
    vision_batch_size: int = 64
    """Images per step of these."""
    sft_steps: int = 350
    """Optimiser steps of instruction tuning."""
    batch_size: int = 32
    """Images per step of instruction tuning; each brings all its questions."""
    muon_learning_rate: float = 5e-3
    """Peak, of the language model's matrices in instruction tuning."""
    learning_rate: float = 2e-3
    """Peak, of embeddings, norms and projector in instruction tuning; in the vision steps, of all but the matrices."""
    tower_learning_rate: float = 3e-4
    """Peak, of the vision tower in instruction tuning."""
    vision_muon_learning_rate: float = 3e-3
    """Peak, of the matrices of vision tower and projector in the vision steps."""
    gate_accuracy: float = 0.75
    """Yes/no accuracy on held-out clean images (0-1) that a usable base needs; 0.5 is a model that always says yes."""
    num_gate_images: int = 150
    """Held-out clean images for the gate."""
    extra_steps: int = 100
    """Steps of each further round, at half the learning rates, while the gate is not passed."""
    max_extra_rounds: int = 4
    """Rounds after which a model that does not pass the gate is given up."""

    def __post_init__(self) -> None:
        for name in ("num_images", "vision_batch_size", "sft_steps", "batch_size", "num_gate_images", "extra_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "vision_steps", "max_extra_rounds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        rates = ("muon_learning_rate", "learning_rate", "tower_learning_rate", "vision_muon_learning_rate")
        for name in rates:
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in (0, 1), not {getattr(self, name)}")
        if not 0 <= self.gate_accuracy < 1:
            raise ConfigError(f"gate_accuracy must be in [0, 1), not {self.gate_accuracy}")
