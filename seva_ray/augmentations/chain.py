"""Several augmentations in one view, for example `rand_flip+diffusion-300`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from seva_ray.augmentations.base import Augmentation, PixelAugmentation
from seva_ray.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Members in the order in which they are applied. They draw from one generator, one after the other."""

    kind: ClassVar[str] = "Chain"

    members: tuple[Augmentation, ...]
    """The augmentations: first those that change the image, then those that change its normalised pixels."""

    def __post_init__(self) -> None:
        for first, second in zip(self.members, self.members[1:], strict=False):
            if isinstance(first, PixelAugmentation) and not isinstance(second, PixelAugmentation):
                raise ConfigError(
                    f"view {self.label!r}: {first.label} works on the preprocessed pixels, "
                    f"so {second.label}, which works on the image, must come before it"
                )

    @property
    def label(self) -> str:
        return "+".join(member.label for member in self.members)

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        for member in self.members:
            image = member.image(image, generator)
        return image

    def pixels(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        for member in self.members:
            pixels = member.pixels(pixels, generator)
        return pixels
