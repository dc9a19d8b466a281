"""An image processor that keeps what it made of the last image: several questions about one image come one after the
other."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.vlm.levels import AS_LEVELS
from seva_ray.vlm.rows import PIXELS, pixels_in


def as_arrays(make: Callable[[str], Any]) -> Any:
    """What a processor makes of each kind of tensors, as NumPy arrays. Some processors, such as Llama 4's, make
    bfloat16, which NumPy does not have: it becomes float32, with the same values."""
    try:
        return make("np")
    except (TypeError, ValueError) as error:
        if "BFloat16" not in str(error):
            raise
    made = make("pt")
    for name, values in made.items():
        made[name] = (values.float() if values.is_floating_point() else values).numpy()
    return made


class OneImage:
    """An image processor that keeps what it made of the last image, for the next question about the same one."""

    def __init__(
        self,
        image_processor: Any,
        before: Callable[[Image.Image], Image.Image],
        as_levels: bool,
        settings: Mapping[str, Any],
    ):
        """`before`: what is done to an image before it is processed. `as_levels`: pixels are not normalised.
        `settings`: what the user has set; some processors always pass values of their own."""
        self.image_processor, self.before, self.settings = image_processor, before, settings
        self.as_levels = as_levels
        self.last: tuple[Image.Image | None, Any] = (None, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.image_processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        image = images
        while isinstance(image, list):
            (image,) = image
        last, made = self.last
        if image is not last:
            options |= dict(self.settings) | (AS_LEVELS if self.as_levels else {})
            shown = [self.before(image)]
            made = as_arrays(lambda kind: self.image_processor(images=shown, **options | {"return_tensors": kind}))
            made[PIXELS] = np.asarray(pixels_in(made), np.uint8 if self.as_levels else np.float32)
            self.last = image, made
        return copy.copy(made)  # some processors take values out of it
