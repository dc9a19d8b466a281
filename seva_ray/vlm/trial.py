"""The images and questions by which a model is tried."""

from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.levels import drawn_at_random
from seva_ray.vlm.rows import Row

SHAPES = ((224, 224), (336, 112), (112, 336))
"""Width and height of the images that are tried: a square, a wide and a tall one."""

LARGE = (1600, 1200)
"""Width and height of a photograph. Some processors cut only large images into tiles."""

QUESTIONS = ("What is in the image?", "Is it?")
"""Questions of different lengths: what a processor makes of an image may not depend on its question."""


def trial_rows(encoder: Encoder) -> list[Row]:
    """Rows of images of different shapes and of questions of different lengths."""
    questions = QUESTIONS * len(SHAPES)
    return [encoder.row(question, drawn_at_random(*shape)) for question, shape in zip(questions, SHAPES, strict=False)]
