"""Small pictures of different shapes, for tests of model families."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image


def picture(seed: int) -> Image.Image:
    """A picture of 40 to 99 px in width and height."""
    random = np.random.default_rng(seed)
    width, height = random.integers(40, 100, 2).tolist()
    colours = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return colours.resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Three prompts of different lengths about images of different shapes, without answers."""
    return [
        {"image_path": None, "image_bytes": png(picture(seed)), "question": "What is it?" + " And why?" * seed}
        for seed in range(3)
    ]
