"""Augmentations that move pixels: borders, crops, flips, rotations, perspective. Sizes are in px of the original image.

In: an RGB image. Out: an RGB image that may have another size. Parts outside the original image are black.
Source: SeVa (arXiv 2404.10501), the list in its ablation; torchvision's transforms with their defaults.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from seva_ray.augmentations.base import TorchvisionAugmentation, Transform, dial, fixed


@dataclass(frozen=True, kw_only=True)
class Pad(TorchvisionAugmentation):
    """Adds a black border, so that the content is smaller in the model's view."""

    kind: ClassVar[str] = "Pad"

    border_px: int = dial(50, low=0, high=2000)
    """Width of the border on every side, 0 to 2000 px."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.Pad(self.border_px)


@dataclass(frozen=True, kw_only=True)
class CenterCrop(TorchvisionAugmentation):
    """Cuts out the square in the middle. A smaller image gets black borders up to that size."""

    kind: ClassVar[str] = "CenterCrop"

    size_px: int = dial(128, low=1, high=4000)
    """Side of the square, 1 to 4000 px."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.CenterCrop(self.size_px)


@dataclass(frozen=True, kw_only=True)
class RandomCrop(TorchvisionAugmentation):
    """Cuts out a square anywhere in the image. If the image is smaller on one side, its row gets an error."""

    kind: ClassVar[str] = "RandomCrop"

    size_px: int = dial(224, low=1, high=4000)
    """Side of the square, 1 to 4000 px."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomCrop(self.size_px)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(TorchvisionAugmentation):
    """Cuts out a part of random size, shape (3:4 to 4:3) and place, and resizes it to a square."""

    kind: ClassVar[str] = "RandomResizedCrop"

    min_scale: float = dial(0.36, low=0.01, high=0.64)
    """Smallest part of the image's area, 0.01 to 0.64."""
    max_scale: float = fixed(0.64)
    """Largest part of the image's area."""
    size_px: int = fixed(224)
    """Side length of the result, in px."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomResizedCrop(self.size_px, scale=(self.min_scale, self.max_scale))


@dataclass(frozen=True, kw_only=True)
class SmallCrop(TorchvisionAugmentation):
    """Cuts out a small part of random size, shape (3:4 to 4:3) and place, and resizes it to a square.

    Source: mDPO (arXiv 2406.11839), which keeps 0 to 20 % of the image; SeVa has no such view.
    """

    kind: ClassVar[str] = "SmallCrop"

    max_scale: float = dial(0.2, low=0.02, high=1)
    """Largest part of the image's area, 0.02 to 1."""
    min_scale: float = fixed(0.01)
    """Smallest part of the image's area."""
    size_px: int = fixed(224)
    """Side length of the result, in px."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomResizedCrop(self.size_px, scale=(self.min_scale, self.max_scale))


@dataclass(frozen=True, kw_only=True)
class RandFlip(TorchvisionAugmentation):
    """Exchanges left and right, or does nothing."""

    kind: ClassVar[str] = "RandFlip"

    p: float = fixed(0.5)
    """Probability of the exchange."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomHorizontalFlip(self.p)


@dataclass(frozen=True, kw_only=True)
class RandomPerspective(TorchvisionAugmentation):
    """Shows the image as if seen from the side. If the image is one pixel wide or high, its row gets an error."""

    kind: ClassVar[str] = "RandomPerspective"

    distortion: float = dial(0.6, low=0, high=1)
    """How far a corner may move towards the middle, as a share of the way, 0 to 1."""
    p: float = fixed(1.0)
    """Probability of a distortion."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomPerspective(self.distortion, self.p)


@dataclass(frozen=True, kw_only=True)
class RandomRotation(TorchvisionAugmentation):
    """Turns the image around its middle by a uniform random angle. Corners that leave the frame are lost."""

    kind: ClassVar[str] = "RandomRotation"

    max_degrees: float = dial(180.0, low=0, high=360)
    """Largest angle in degrees, counter-clockwise, 0 to 360. The smallest angle is 0."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomRotation((0, self.max_degrees))


@dataclass(frozen=True, kw_only=True)
class RandomAffine(TorchvisionAugmentation):
    """Turns, shifts and shrinks the image inside its frame."""

    kind: ClassVar[str] = "RandomAffine"

    degrees: tuple[float, float] = fixed((30.0, 70.0))
    """Smallest and largest angle in degrees, clockwise."""
    translate: tuple[float, float] = fixed((0.1, 0.3))
    """Largest shift, as a share of width and height."""
    scale: tuple[float, float] = fixed((0.5, 0.75))
    """Smallest and largest factor by which the size is multiplied."""

    def transform(self, transforms: ModuleType) -> Transform:
        return transforms.RandomAffine(self.degrees, self.translate, self.scale)
