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


class Copies(NamedTuple):
    """How an array of normalised pixels, such as patches, holds each pixel several times: as the frames of a video."""

    shape: tuple[int, ...]
    """The shape in which the part of each index of the first axis has an axis of copies."""
    axis: int
    """That axis, counted with the first one."""


def copies_in(pixels: np.ndarray, frames: int) -> Copies | None:
    """The copies in the normalised pixels of a random image; None if there are none.

    `frames`: how often flattened patches hold a pixel. Most families, such as Qwen-VL, hold the frames of each channel
    one after the other, and others the channels of each frame.
    """
    if pixels.ndim == 2 and frames > 1:
        shapes = [Copies((CHANNELS, frames, -1), 2), Copies((frames, CHANNELS, -1), 1)]
    else:
        shapes = [Copies(pixels.shape[1:], axis) for axis in range(1, pixels.ndim)]
    for copies in shapes:
        parts = pixels.reshape(len(pixels), *copies.shape)
        if parts.shape[copies.axis] > 1 and np.array_equal(
            parts, parts.take([0] * parts.shape[copies.axis], copies.axis)
        ):
            return copies
    return None


def with_pixels(row: Row, change: Callable[[np.ndarray], np.ndarray], copies: Copies | None = None) -> Row:
    """The row after `change` of its normalised pixels, which gives an array of the same shape.

    Each pixel of the image is in what `change` gets once. Qwen-VL's processor holds a still image as equal frames of a
    video; if each of them got noise of its own, the vision tower, which averages them, would see less noise than was
    asked for. So `change` gets one of the `copies`, and all of them get what it makes. Tiles and the overview of an
    image are pictures of their own. Pixels that only fill up a shape stay as they are.
    """
    pixels = row.features[PIXELS]
    if copies is None:
        made = change(pixels)
    else:
        parts = pixels.reshape(len(pixels), *copies.shape)
        one = change(parts.take([0], copies.axis))
        made = np.repeat(one, parts.shape[copies.axis], copies.axis).reshape(pixels.shape)
    if MASK in row.features:
        mask = row.features[MASK].astype(bool)  # of pixels, or of patches that lie in the last axis
        made = np.where(np.expand_dims(mask, -1 if mask.shape == pixels.shape[:-1] else -CHANNELS), made, pixels)
    return replace(row, features={**row.features, PIXELS: made.astype(np.float32, copy=False)})


def stacked(features: Sequence[Mapping[str, np.ndarray]], axes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The features of several images as one batch: joined along an axis, and filled up with zeros along others.

    `axes`: the axis of each name, if it is not the first one. Every family's processor does the same to several images:
    some list their patches or tiles (Qwen-VL, InternVL, Gemma 3), others fill up the number of tiles (LLaVA-NeXT,
    Idefics3) or the size of images (Pixtral), and MiniCPM-V puts patches side by side.
    """
    batch = {}
    for name in features[0]:
        arrays, axis = [item[name] for item in features], axes.get(name, 0)
        widest = np.max([array.shape for array in arrays], axis=0).tolist()
        batch[name] = np.concatenate([filled_up(array, widest, axis) for array in arrays], axis)
    return batch


def filled_up(array: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray:
    """The array with zeros behind its values, so that its axes other than `axis` have this shape."""
    missing = [(0, wide - now) for wide, now in zip(shape, array.shape, strict=True)]
    missing[axis] = (0, 0)
    return np.pad(array, missing) if any(after for _, after in missing) else array


def axes_of(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], both: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """The axes along which a processor has joined the features of two images in `both`, if they are not the first."""
    found = {}
    for name, values in both.items():
        for axis in range(1, values.ndim) if len(values) == 1 else ():
            lengths = [*zip(values.shape, one[name].shape, other[name].shape, strict=True)]
            joined, first, second = lengths.pop(axis)
            if joined == first + second and all(len({*same}) == 1 for same in lengths):
                found[name] = axis
    return found
