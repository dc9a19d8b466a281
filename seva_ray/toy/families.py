"""The families of toy bases: what training asks of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from seva_ray.toy import model as llava
from seva_ray.toy import qwen


class Family(Protocol):
    """A module for each family."""

    @property
    def TOKEN_PX(self) -> int:
        """Side of the part of an image that becomes one token, in px."""
        ...

    @property
    def SIZES_PX(self) -> Sequence[tuple[int, int]]:
        """Heights and widths of the pictures that it learns from, in px."""
        ...

    @property
    def OPENING(self) -> tuple[int, ...]:
        """Tokens before those of the image, with which every prompt begins."""
        ...

    @property
    def CLOSING(self) -> tuple[int, ...]:
        """Tokens after those of the image, before the question."""
        ...

    def build(self, seed: int) -> Any:
        """A model with random weights that follow from the seed."""
        ...

    def save(self, model: Any, directory: str | Path) -> None:
        """Write weights, configuration and processor."""
        ...

    def image_features(self, model: Any, pixels: Tensor) -> Tensor:
        """What the language model reads for normalised images of one size, (B, 3, H, W) -> (B, tokens, hidden)."""
        ...

    def positions(self, model: Any, grid: tuple[int, int]) -> Tensor:
        """The positions of a prompt's beginning, up to CLOSING, with an image of grid height x width tokens: (1, P), or
        (3, P)."""
        ...

    def vision_parts(self, model: Any) -> tuple[Sequence[nn.Module], nn.Module, nn.Module]:
        """The parts of the vision tower, its layers, and what leads from it to the language model."""
        ...


FAMILIES: dict[str, Family] = {"llava": llava, "qwen2_5_vl": qwen}
"""The families by transformers' `model_type`."""


def family_of(model: Any) -> Family:
    return FAMILIES[model.config.model_type]
