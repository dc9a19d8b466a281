"""An image without content: what a model answers about it is what it expects without looking, its language prior."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seva_ray.augmentations.base import PixelAugmentation


@dataclass(frozen=True, kw_only=True)
class Blank(PixelAugmentation):
    """Shows the mean colour that the model's processor subtracts, everywhere."""

    kind: ClassVar[str] = "Blank"

    def pixels(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Zeros, which are the mean colour after normalisation."""
        return np.zeros_like(pixels)
