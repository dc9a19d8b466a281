"""Augmentations made of several: the views of contrastive learning, and learned policies.

In: an RGB image; out: an RGB image, for the views of contrastive learning a square of 224 px.
Source: SeVa (arXiv 2404.10501), the list of its ablation; policies of torchvision with its defaults.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from seva_ray.augmentations.base import TorchvisionAugmentation, Transform, dial, fixed


@dataclass(frozen=True, kw_only=True)
class Moco(TorchvisionAugmentation):
    """Crop, flip, colours, grey, blur, in this order: the view of MoCo v2, with colours and blur always."""

    kind: ClassVar[str] = "Moco"

    min_scale: float = dial(0.2, low=0.01, high=1)
    """Smallest part of the image's area that the crop keeps, 0.01 to 1; the largest is 1."""
    size_px: int = fixed(224)
    """Side of the result."""
    flip_p: float = fixed(0.5)
    """Probability that left and right are exchanged."""
    jitter: tuple[float, float, float, float] = fixed((0.4, 0.4, 0.4, 0.1))
    """Largest change of brightness, contrast, saturation and hue."""
    grey_p: float = fixed(0.2)
    """Probability that colour is taken away."""
    blur_sigma: tuple[float, float] | None = fixed((0.1, 2.0))
    """Smallest and largest sigma of the blur, in px of the result; None for no blur."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(self.size_px, scale=(self.min_scale, 1.0)),
                transforms.RandomHorizontalFlip(self.flip_p),
                transforms.ColorJitter(*self.jitter),
                transforms.RandomGrayscale(self.grey_p),
            ]
        )

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """torchvision has no blur by PIL, so sigma is the generator's second draw."""
        image = super().image(image, generator)
        if self.blur_sigma is None:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=generator.uniform(*self.blur_sigma)))


@dataclass(frozen=True, kw_only=True)
class Byol(Moco):
    """As `Moco`, with smaller crops."""

    kind: ClassVar[str] = "Byol"

    min_scale: float = dial(0.08, low=0.01, high=1)
    """Smallest part of the image's area that the crop keeps, 0.01 to 1; the largest is 1."""


@dataclass(frozen=True, kw_only=True)
class Simclr(Moco):
    """As `Moco`, with any hue and no blur."""

    kind: ClassVar[str] = "Simclr"

    jitter: tuple[float, float, float, float] = fixed((0.4, 0.4, 0.4, 0.4))
    """Largest change of brightness, contrast, saturation and hue."""
    blur_sigma: tuple[float, float] | None = fixed(None)
    """No blur."""


@dataclass(frozen=True, kw_only=True)
class RandAugment(TorchvisionAugmentation):
    """A few random operations of one magnitude: arXiv 1909.13719."""

    kind: ClassVar[str] = "RandAugment"

    magnitude: int = dial(9, low=0, high=30)
    """Of every operation, 0 to 30."""
    num_magnitudes: int = fixed(31)
    """How many magnitudes there are."""
    num_operations: int = fixed(2)
    """Applied one after the other."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandAugment(self.num_operations, self.magnitude, self.num_magnitudes)


@dataclass(frozen=True, kw_only=True)
class AutoAugment(TorchvisionAugmentation):
    """One of the pairs of operations that were learned on a data set: arXiv 1805.09501."""

    kind: ClassVar[str] = "AutoAugment"

    policy: str = fixed("imagenet")
    """The data set."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.AutoAugment(transforms.AutoAugmentPolicy(self.policy))
