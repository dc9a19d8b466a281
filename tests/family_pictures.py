"""Small pictures of different shapes, for tests of model families."""

import numpy as np
from PIL import Image


def picture(seed: int) -> Image.Image:
    """Of 40 to 99 px in width and height."""
    random = np.random.default_rng(seed)
    width, height = random.integers(40, 100, 2).tolist()
    colours = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return colours.resize((width, height), Image.Resampling.BICUBIC)
