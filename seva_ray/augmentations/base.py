"""What an augmentation is: a pure function of (image, generator), applied before or after preprocessing.

An augmentation is a frozen dataclass with at most one dial: the field that a sweep may change and that the label shows.
All its other parameters are fixed. They are fields too, so that they are part of a result's fingerprint.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from types import ModuleType
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from PIL import Image

from seva_ray.core.errors import ConfigError, InputError

Transform = Callable[[Image.Image], Image.Image]

torch_generator = threading.Lock()
"""torch has one generator for the whole process. Two threads that used it at once would mix their draws."""


class Augmentation(Protocol):
    """A frozen, keyword-only dataclass. It changes either the image or the pixels, and returns the other unchanged."""

    @property
    def label(self) -> str:
        """Name of the view. It contains every parameter that can be chosen, and `parse_view` reads it back."""
        ...

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Augment the RGB image, before padding and preprocessing.

        Raises: InputError if it cannot be applied to this image.
        """
        ...

    def pixels(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Augment the normalised pixels, float32 (C, H, W), after preprocessing."""
        ...


def dial(default: Any = MISSING, *, low: float, high: float) -> Any:
    """The field that can be chosen, an int or a float of at least 0. Without a default, a label must give its value."""
    return field(default=default, metadata={"low": low, "high": high})


def fixed(value: Any) -> Any:
    """A field that is part of the method. It is in the fingerprint but not in the label, and it cannot be chosen."""
    return field(default=value, init=False)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An augmentation whose name is its kind in snake case. In its label, the dial follows if it is not the default."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if chosen := self.dial_field():
            value, low, high = getattr(self, chosen.name), chosen.metadata["low"], chosen.metadata["high"]
            number: Any = chosen.type
            if not low <= value <= high or number(value) != value:
                whole = ", whole" if number is int else ""
                raise ConfigError(f"{self.name()}: {chosen.name} {value} must be {low} to {high}{whole}")
            object.__setattr__(self, chosen.name, number(value) + 0)  # one fingerprint for 90 and 90.0, -0.0 and 0.0

    @classmethod
    def name(cls) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.kind).lower()

    @classmethod
    def dial_field(cls) -> Field | None:
        return next((item for item in fields(cls) if item.init), None)

    @classmethod
    def usage(cls) -> str:
        """How the labels of this augmentation are written, for example `pad[-border_px]`."""
        chosen = cls.dial_field()
        if chosen is None:
            return cls.name()
        return f"{cls.name()}-<{chosen.name}>" if chosen.default is MISSING else f"{cls.name()}[-{chosen.name}]"

    @classmethod
    def at(cls, value: str) -> Self:
        """The augmentation with the dial at the value from a label; an empty value means the default.

        Raises: ConfigError if the value is not a number in the dial's range.
        """
        chosen = cls.dial_field()
        if chosen is None or (not value and chosen.default is not MISSING):
            return cls()
        number: Any = chosen.type
        try:
            given = number(value)
        except ValueError:
            kind = "whole number" if number is int else "number"
            raise ConfigError(f"{cls.name()}: must be {cls.usage()} with a {kind}, not {value!r}") from None
        return cls(**{chosen.name: given})

    @property
    def label(self) -> str:
        chosen = self.dial_field()
        if chosen is None or getattr(self, chosen.name) == chosen.default:
            return self.name()
        return f"{self.name()}-{np.format_float_positional(getattr(self, chosen.name), trim='-')}"


@dataclass(frozen=True, kw_only=True)
class PixelAugmentation(Labelled):
    """An augmentation that changes the normalised pixels."""

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        return image


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation(Labelled):
    """An augmentation that changes the image."""

    def pixels(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return pixels


@dataclass(frozen=True, kw_only=True)
class TorchvisionAugmentation(ImageAugmentation):
    """A transform of torchvision; all of its draws follow from one draw of the generator."""

    def transform(self, transforms: ModuleType) -> Transform:
        """The transform. `transforms` is `torchvision.transforms`, an argument so that no config imports torch."""
        raise NotImplementedError

    def image(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Apply the transform with torch's own generator, and restore that generator's state."""
        import torch
        from torchvision import transforms

        transform, seed = self.transform(transforms), int(generator.integers(2**32))
        try:
            with torch_generator, torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                return transform(image)
        except (ValueError, torch.linalg.LinAlgError) as error:  # for example if a crop is larger than the image
            raise InputError(f"view {self.label}: impossible for {image.width}x{image.height} px ({error})") from None
