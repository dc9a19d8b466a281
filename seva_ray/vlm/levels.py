"""Pixels as 8-bit levels, from which the normalised pixels follow by a table of 256 values for each channel.

An image processor resizes and cuts an image in 8 bits, and only then rescales and normalises it. Without these last
two steps its output has a quarter of the bytes, and the model's process can do them: value by value, so a table gives
the same bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.vlm.images import pad_to_square
from seva_ray.vlm.rows import CHANNELS, PIXELS

NUM_LEVELS = 256

AS_LEVELS = {"do_rescale": False, "do_normalize": False}
"""The options of an image processor with which it stops before it normalises."""

TRIED = ((224, 224), (336, 112), (112, 336), (500, 375))
"""Width and height of the images with which a table is tried, in px."""

SQUARES = (224, 500, 1001)
"""Sides of more squares with which Pillow's resizing is compared with a processor's, in px."""


def drawn_at_random(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def table_of(image_processor: Any) -> np.ndarray:
    """What the processor makes of each level in each channel, float32 (3, 256), by its own arithmetic."""
    side = int(NUM_LEVELS**0.5)
    values = np.broadcast_to(np.arange(NUM_LEVELS, dtype=np.uint8).reshape(side, side), (CHANNELS, side, side))
    if image_processor.do_rescale:
        values = image_processor.rescale(values, image_processor.rescale_factor)
    if image_processor.do_normalize:
        values = image_processor.normalize(values, image_processor.image_mean, image_processor.image_std)
    return np.asarray(values, np.float32).reshape(CHANNELS, NUM_LEVELS)


def exact_table(image_processor: Any, before: Callable[[Image.Image], Image.Image]) -> np.ndarray | None:
    """The table, if with it the processor's levels of images of several shapes become its pixels bit for bit. Otherwise
    None, and pixels travel as they are. `before`: what is done to an image before it is processed."""
    try:
        table = table_of(image_processor)
        for shape in TRIED:
            image = before(drawn_at_random(*shape))
            levels = np.asarray(image_processor(images=[image], return_tensors="np", **AS_LEVELS)[PIXELS])
            pixels = np.asarray(image_processor(images=[image], return_tensors="np")[PIXELS], np.float32)
            if not np.array_equal(levels, levels.astype(np.uint8)):
                return None
            if not np.array_equal(looked_up(levels.astype(np.uint8), table), pixels):
                return None
    except Exception:  # a processor may lack any of these steps, and may raise anything: then its own output remains
        return None
    return table


def size_of_squares(image_processor: Any, colour: tuple[int, int, int]) -> tuple[int, int] | None:
    """Width and height to which the processor resizes every image that was padded to a square with `colour`, if it does
    nothing else and makes the same levels as `shrunk`, bit for bit; otherwise None."""
    sizes = set()
    for shape in (*TRIED, *((side, side) for side in SQUARES)):
        image = drawn_at_random(*shape)
        made = image_processor(images=[pad_to_square(image, colour)], return_tensors="np", **AS_LEVELS)
        size = made[PIXELS].shape[-1], made[PIXELS].shape[-2]
        resized = np.asarray(shrunk(image, colour, size, image_processor.resample)).transpose(2, 0, 1)[None]
        if {*made} != {PIXELS} or not np.array_equal(made[PIXELS], resized):
            return None
        sizes.add(size)
    return sizes.pop() if len(sizes) == 1 else None


def shrunk(image: Image.Image, colour: tuple[int, int, int], size: tuple[int, int], resample: int) -> Image.Image:
    """The image padded to a square and resized, with less work: Pillow resizes rows first, and then columns. Rows of
    one colour stay as they are, so a wide image is padded between the two."""
    if image.width <= image.height:
        return pad_to_square(image, colour).resize(size, resample)
    rows = image.resize((size[0], image.height), resample)
    padded = Image.new("RGB", (size[0], image.width), colour)
    padded.paste(rows, (0, (image.width - image.height) // 2))
    return padded.resize(size, resample)


def looked_up(levels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The normalised pixels, float32, of the levels' shape: (..., 3, H, W), or flattened patches (N, 3 x values)."""
    of_channel = levels.shape[-1] // CHANNELS if levels.ndim == 2 else levels.shape[-2] * levels.shape[-1]
    channels = levels.reshape(-1, CHANNELS, of_channel)
    pixels = np.empty(channels.shape, np.float32)
    for channel in range(CHANNELS):
        pixels[:, channel] = table[channel][channels[:, channel]]
    return pixels.reshape(levels.shape)
