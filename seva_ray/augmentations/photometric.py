"""Augmentations that change colours and sharpness but do not move pixels.

In: an RGB image. Out: an RGB image of the same size. Colours are 8-bit levels, 0 to 255.
Source: SeVa (arXiv 2404.10501), the list in its ablation; torchvision's transforms with their defaults.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from seva_ray.augmentations.base import ImageAugmentation, TorchvisionAugmentation, Transform, dial, fixed


@dataclass(frozen=True, kw_only=True)
class Grayscale(TorchvisionAugmentation):
    """Always makes the image grey."""

    kind: ClassVar[str] = "Grayscale"

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.Grayscale(num_output_channels=3)


@dataclass(frozen=True, kw_only=True)
class ColorJitter(TorchvisionAugmentation):
    """Changes brightness, contrast, saturation and hue by random amounts, in random order."""

    kind: ClassVar[str] = "ColorJitter"

    factor: float = dial(1.0, low=0, high=5)
    """Factor on all four values below, 0 to 5. With 0 nothing changes, and with 5 a hue may become any other hue."""
    brightness: float = fixed(0.4)
    """Largest relative change, both ways (never below 0)."""
    contrast: float = fixed(0.4)
    """Largest relative change, both ways (never below 0)."""
    saturation: float = fixed(0.4)
    """Largest relative change, both ways (never below 0)."""
    hue: float = fixed(0.1)
    """Largest turn on the colour circle, both ways, as a share of the whole circle."""

    def transform(self, transforms: ModuleType) -> Transform:
        values = (self.brightness, self.contrast, self.saturation, self.hue)
        return transforms.ColorJitter(*(self.factor * value for value in values))


@dataclass(frozen=True, kw_only=True)
class RandomInvert(TorchvisionAugmentation):
    """Makes the negative of the image, or does nothing."""

    kind: ClassVar[str] = "RandomInvert"

    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomInvert(self.p)


@dataclass(frozen=True, kw_only=True)
class RandomPosterize(TorchvisionAugmentation):
    """Leaves only a few levels of each colour, or does nothing."""

    kind: ClassVar[str] = "RandomPosterize"

    bits: int = dial(2, low=1, high=8)
    """Number of bits that are left of each colour, 1 to 8; 8 changes nothing."""
    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomPosterize(self.bits, self.p)


@dataclass(frozen=True, kw_only=True)
class RandomSolarize(TorchvisionAugmentation):
    """Inverts bright levels, or does nothing."""

    kind: ClassVar[str] = "RandomSolarize"

    threshold: int = dial(128, low=0, high=255)
    """The darkest level that is inverted, 0 to 255."""
    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomSolarize(self.threshold, self.p)


@dataclass(frozen=True, kw_only=True)
class RandomEqualize(TorchvisionAugmentation):
    """Spreads the levels so that all are about equally frequent, or does nothing."""

    kind: ClassVar[str] = "RandomEqualize"

    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomEqualize(self.p)


@dataclass(frozen=True, kw_only=True)
class RandomAdjustSharpness(TorchvisionAugmentation):
    """Makes edges softer or sharper, or does nothing."""

    kind: ClassVar[str] = "RandomAdjustSharpness"

    sharpness: float = dial(0.0, low=0, high=10)
    """Sharpness from 0 (smoothed) to 10. 1 changes nothing, and 2 adds what smoothing would take away."""
    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomAdjustSharpness(self.sharpness, self.p)


@dataclass(frozen=True, kw_only=True)
class RandomAutocontrast(TorchvisionAugmentation):
    """Stretches the levels until the darkest is 0 and the brightest is 255, or does nothing."""

    kind: ClassVar[str] = "RandomAutocontrast"

    p: float = fixed(0.5)
    """Probability of a change."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomAutocontrast(self.p)


@dataclass(frozen=True, kw_only=True)
class GaussianBlur(ImageAugmentation):
    """Applies PIL's Gaussian blur, always, with a uniform random sigma."""

    kind: ClassVar[str] = "GaussianBlur"

    max_sigma: float = dial(2.0, low=0.1, high=100)
    """Largest sigma, 0.1 to 100 px of the original image."""
    min_sigma: float = fixed(0.1)
    """Smallest sigma, in px."""

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=generator.uniform(self.min_sigma, self.max_sigma)))
