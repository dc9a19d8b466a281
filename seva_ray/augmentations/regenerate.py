"""Regenerated images: a diffusion model takes the image part of the way into noise and back.

The picture stays plausible, while objects, counts and colours may change: a harder negative than noise. A model makes
these images beforehand (stages/regenerate.py), so this class holds only the strength.
Source: SDEdit (arXiv 2108.01073), known as image-to-image.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from seva_ray.augmentations.base import ImageAugmentation, dial
from seva_ray.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Regenerate(ImageAugmentation):
    """An image that a diffusion model has made out of the image."""

    kind: ClassVar[str] = "Regenerate"

    strength: float = dial(low=0.01, high=1)
    """How far into noise the image is taken: near 0 it stays as it is, and at 1 nothing of it is left."""

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        raise InputError(f"view {self.label}: its images are made beforehand by a diffusion model, and not from a view")
