"""A prompt as a model reads it: what the model's own processor makes of a question and an image, as arrays."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from seva_ray.core.errors import InputError

PIXELS = "pixel_values"
"""The name of the normalised pixels among the features of an image, in every family of models."""


def pixels_in(made: Mapping[str, Any]) -> Any:
    """The pixels among what an image processor has made. Raises: InputError."""
    if PIXELS not in made:
        raise InputError(f"its image processor makes {' and '.join(made)}, and no {PIXELS}")
    return made[PIXELS]


class Noise(NamedTuple):
    """A change of normalised pixels that is not made yet."""

    view: str
    """The label of the view, whose augmentation makes the change."""
    state: Mapping[str, Any]
    """The state of the random generator that the augmentation draws from, as NumPy gives it; JSON can hold it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt of one question about one image. Engines and training read rows, and never an image or a text."""

    ids: Sequence[int]
    """Token ids of the prompt, (T,). The image already has as many tokens as the model reads for it."""
    num_image_tokens: int
    """How many of the tokens stand for the image: the model makes as many features of it."""
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Other arrays with one value for each token, (T,) each, such as `mm_token_type_ids`."""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the processor makes of the image, as a batch of one image: `pixel_values` in float32, and what the family
    has beside it, such as `image_grid_thw`. Families differ in what the first axis counts: images, tiles or patches.
    In a row on its way to an engine, `pixel_values` may be 8-bit levels; `Encoder.finished` normalises them."""
    noise: Noise | None = None
    """The change of the normalised pixels that `Encoder.finished` is still to make; None: there is none."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the image that the processor was given, in px."""


TYPES = "token_type_ids"
"""The name of the array of tokens' types in families whose tokens may see each other in both directions: in Gemma 3
those of an image do, in PaliGemma the whole prompt."""

MM_TYPES = "mm_token_type_ids"
"""The name of the array that says which tokens are an image's. In some models, such as Gemma 4, those see each other in
both directions too, which their configuration says."""


def types_among(names: Collection[str], config: Any) -> str | None:
    """The name of the array whose values say which tokens see each other in both directions; None if none do.
    `config`: the model's."""
    if TYPES in names:
        return TYPES
    both = getattr(config.get_text_config(), "use_bidirectional_attention", None) == "vision"
    return MM_TYPES if both and MM_TYPES in names else None


MASK = "pixel_attention_mask"
"""The name of the array that is 0 where pixels only fill up a shape."""

CHANNELS = 3


def with_pixels(row: Row, change: Callable[[np.ndarray], np.ndarray], frames: int = 1) -> Row:
    """The row after `change` of its normalised pixels, which gives an array of the same shape.

    Each pixel of the image is in what `change` gets once. Qwen-VL's processor holds a still image as `frames` equal
    frames of a video; if each of them got noise of its own, the vision tower, which averages them, would see less noise
    than was asked for. So `change` gets one frame, and all of them get what it makes. Tiles and the overview of an
    image are pictures of their own. Pixels that only fill up a shape stay as they are.
    """
    pixels = row.features[PIXELS]
    flattened = pixels.ndim == 2 and frames > 1  # patches of (channel, frame, height x width)
    if flattened:
        patches = pixels.reshape(len(pixels), CHANNELS, frames, -1)
        made = np.repeat(change(patches[:, :, :1]), frames, axis=2).reshape(pixels.shape)
    else:
        made = change(pixels)
    if MASK in row.features:
        mask = row.features[MASK].astype(bool)  # of pixels, or of patches that lie in the last axis
        made = np.where(np.expand_dims(mask, -1 if mask.shape == pixels.shape[:-1] else -CHANNELS), made, pixels)
    return replace(row, features={**row.features, PIXELS: made.astype(np.float32, copy=False)})


def stacked(features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The features of several images as one batch: joined along the first axis, and filled up with zeros along others.

    Every family's processor does the same to several images: some list their patches or tiles (Qwen-VL, InternVL,
    Gemma 3), others fill up the number of tiles (LLaVA-NeXT, Idefics3) or the size of images (Pixtral).
    """
    batch = {}
    for name in features[0]:
        arrays = [item[name] for item in features]
        widest = np.max([array.shape[1:] for array in arrays], axis=0).astype(int).tolist()
        batch[name] = np.concatenate([filled_up(array, widest) for array in arrays])
    return batch


def filled_up(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array with zeros behind its values, so that its axes after the first one have this shape."""
    missing = [(0, wide - now) for wide, now in zip(shape, array.shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *missing]) if any(after for _, after in missing) else array
