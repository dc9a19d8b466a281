"""Augmentations that combine several operations: the views of contrastive learning, and learned policies.

In: an RGB image. Out: an RGB image; the views of contrastive learning give a square of 224 px.
Source: SeVa (arXiv 2404.10501), the list in its ablation; torchvision's policies with their defaults.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from seva_ray.augmentations.base import TorchvisionAugmentation, Transform, dial, fixed


@dataclass(frozen=True, kw_only=True)
class Moco(TorchvisionAugmentation):
    """The view of MoCo v2: crop, flip, colours, grey and blur, in this order. Colours and blur are always applied."""

    kind: ClassVar[str] = "Moco"

    min_scale: float = dial(0.2, low=0.01, high=1)
    """Smallest part of the image's area that the crop keeps, 0.01 to 1; the largest is 1."""
    size_px: int = fixed(224)
    """Side length of the result, in px."""
    flip_p: float = fixed(0.5)
    """Probability that left and right are exchanged."""
    jitter: tuple[float, float, float, float] = fixed((0.4, 0.4, 0.4, 0.1))
    """Largest change of brightness, contrast, saturation and hue."""
    grey_p: float = fixed(0.2)
    """Probability that the image becomes grey."""
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
        """Apply the transform, then PIL's blur, which torchvision lacks. Sigma is the generator's second draw."""
        image = super().image(image, generator)
        if self.blur_sigma is None:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=generator.uniform(*self.blur_sigma)))


@dataclass(frozen=True, kw_only=True)
class Byol(Moco):
    """The view of BYOL: the same as `Moco`, with smaller crops."""

    kind: ClassVar[str] = "Byol"

    min_scale: float = dial(0.08, low=0.01, high=1)
    """Smallest part of the image's area that the crop keeps, 0.01 to 1; the largest is 1."""


@dataclass(frozen=True, kw_only=True)
class Simclr(Moco):
    """The view of SimCLR: the same as `Moco`, with larger changes of hue and without blur."""

    kind: ClassVar[str] = "Simclr"

    jitter: tuple[float, float, float, float] = fixed((0.4, 0.4, 0.4, 0.4))
    """Largest change of brightness, contrast, saturation and hue."""
    blur_sigma: tuple[float, float] | None = fixed(None)
    """None, because there is no blur."""


@dataclass(frozen=True, kw_only=True)
class RandAugment(TorchvisionAugmentation):
    """A few random operations, all with the same magnitude. Source: RandAugment, arXiv 1909.13719."""

    kind: ClassVar[str] = "RandAugment"

    magnitude: int = dial(9, low=0, high=30)
    """Magnitude of every operation, 0 to 30."""
    num_magnitudes: int = fixed(31)
    """Number of possible magnitudes."""
    num_operations: int = fixed(2)
    """Number of operations, which are applied one after the other."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandAugment(self.num_operations, self.magnitude, self.num_magnitudes)


@dataclass(frozen=True, kw_only=True)
class AutoAugment(TorchvisionAugmentation):
    """One of the pairs of operations that were learned on a data set. Source: AutoAugment, arXiv 1805.09501."""

    kind: ClassVar[str] = "AutoAugment"

    policy: str = fixed("imagenet")
    """The data set that the operations were learned on."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.AutoAugment(transforms.AutoAugmentPolicy(self.policy))
