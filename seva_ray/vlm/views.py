"""The pixels of a prompt in a view: what the model sees when it answers.

They are a pure function of the row, the view and the seed. So a row has the same pixels on every worker and after every
restart, and the report can show exactly what the model saw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.augmentations import CLEAN, changes_pixels, parse_view
from seva_ray.augmentations.base import Augmentation
from seva_ray.augmentations.ladder import plain_view
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.seeds import generator
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import load_image
from seva_ray.vlm.rows import PIXELS, Noise, Row

LIKENESS_PX = 448
"""Largest side of a likeness of an image, in px."""


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Opens the images of one prompt set and prepares them for one model."""

    encoder: Encoder
    image_root: str | None
    max_pixels: int
    seed: int = 0
    """Seed of the augmentations."""
    strip_questions: bool = False
    """Ask questions without the white space at their ends."""
    made: Callable[[str, str], bytes] | None = None
    """Finds the image file of a prompt_id in a view whose images a diffusion model made beforehand. Raises: InputError
    if there is none."""

    def row(self, prompt: Mapping[str, Any], view: str = CLEAN, image: Image.Image | None = None) -> Row:
        """What the model reads of a prompt with prompt_id, question, image_path and image_bytes, in a view. `image`:
        the prompt's image, if it is open already.

        Raises: InputError or OSError if the image cannot be read; InputError for a question that cannot be asked.
        """
        return self.encoder.finished(self.raw(prompt, view, image))

    def raw(self, prompt: Mapping[str, Any], view: str = CLEAN, image: Image.Image | None = None) -> Row:
        """The same row as it travels to an engine: its noise is not drawn yet, and its pixels are not normalised."""
        view = plain_view(view)
        image, augmentation = self.opened(prompt, view, image)
        if augmentation is None:
            return self.encoder.raw(self.question(prompt), image)
        random = generator(self.seed, prompt["prompt_id"], view)
        row = self.encoder.raw(self.question(prompt), augmentation.image(image, random))
        return replace(row, noise=Noise(view, random.bit_generator.state)) if changes_pixels(augmentation) else row

    def question(self, prompt: Mapping[str, Any]) -> str:
        """The question as the model reads it."""
        return prompt["question"].strip() if self.strip_questions else prompt["question"]

    def picture(self, prompt: Mapping[str, Any], view: str = CLEAN) -> np.ndarray:
        """What the model saw of a prompt with a question, as one normalised picture to look at, float32 (3, H, W).

        Where a model reads an image as patches or tiles, it is a likeness: the image at a smaller size, with the view's
        augmentation and other draws of noise. Raises: as `row`.
        """
        view = plain_view(view)
        image, augmentation = self.opened(prompt, view)
        pixels = self.row(prompt, view, image).features[PIXELS]
        if pixels.ndim == 4 and len(pixels) == 1:
            return pixels[0]
        random = generator(self.seed, prompt["prompt_id"], view)
        if augmentation is not None:
            image = augmentation.image(image, random)
        image = image.copy()
        image.thumbnail((LIKENESS_PX, LIKENESS_PX))
        normalised = self.encoder.normalised(np.asarray(image))
        return normalised if augmentation is None else augmentation.pixels(normalised, random)

    def opened(
        self, prompt: Mapping[str, Any], view: str, image: Image.Image | None = None
    ) -> tuple[Image.Image, Augmentation | None]:
        """The image of a prompt in a view, and what remains to be done with it. `image`: the prompt's own, if it is
        open already."""
        augmentation = parse_view(view)
        if isinstance(augmentation, Regenerate) and self.made:
            data = self.made(prompt["prompt_id"], view)
            padded = self.encoder.crops
            return load_image(path=None, data=data, image_root=None, max_pixels=self.max_pixels, padded=padded), None
        return image or self.image(prompt), augmentation

    def image(self, row: Mapping[str, Any]) -> Image.Image:
        """The row's image as it is. Raises: InputError, OSError where it cannot be read."""
        return load_image(
            path=row["image_path"],
            data=row["image_bytes"],
            image_root=self.image_root,
            max_pixels=self.max_pixels,
            padded=self.encoder.crops,
        )
