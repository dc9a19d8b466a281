"""Reads a toy scene back from its picture, by comparing each place with everything that could be drawn there.

It knows how scenes are drawn, and nothing of the scene at hand. A thing is the shape, size, offset and colour with the
smallest squared difference from the picture; a place is empty if nothing fits better than the background. A sign is the
word, row and offset that fit best, in the same way.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from seva_ray.toy.drawing import draw_shape, draw_sign_words
from seva_ray.toy.world import (
    CELL_PX,
    CLEAN,
    COLORS,
    NUMBERS,
    SHAPES,
    SIGN_WORDS,
    SIZE_PX,
    Camera,
    Question,
    Scene,
    Sign,
    Thing,
    description,
)

OFFSETS, RADII = (-1, 0, 1), (5, 6, 7)
MARGIN_PX = 2
"""How far a thing may reach out of its cell."""
MIN_GAIN = 0.25
"""A place has a thing if it explains at least this share of the squared difference from the background, and"""
MIN_CONTRAST = 25.0
"""its colour is this far from the background, in levels (root of the mean over the channels)."""
MIN_SIGN_GAIN = 0.5
"""The same share for a sign."""


def read_scene(picture: np.ndarray, camera: Camera = CLEAN) -> Scene:
    """The scene in a picture, uint8 (48, 48, 3), that `camera` made."""
    pixels = (picture.astype(np.float32) - 127.5) / camera.contrast + 127.5
    background = np.median(pixels.reshape(-1, 3), axis=0)
    sign = read_sign(pixels, background)
    cells = [cell for cell in range(9) if sign is None or cell // 3 != sign.row]
    things = [thing for cell in cells if (thing := read_thing(pixels, background, cell))]
    return Scene(seed=0, split="test", index=0, things=tuple(things), sign=sign)


def read_thing(pixels: np.ndarray, background: np.ndarray, cell: int) -> Thing | None:
    """The thing in a cell, or None."""
    shapes, masks = thing_masks()
    padded = np.pad(pixels, ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)), constant_values=np.nan)
    top, left = cell // 3 * CELL_PX, cell % 3 * CELL_PX
    side = CELL_PX + 2 * MARGIN_PX
    window = padded[top : top + side, left : left + side].reshape(-1, 3)
    off = np.where(np.isnan(window), 0, window - background)  # what lies outside the picture says nothing
    # einsum, and no product of matrices: several threads would wait for each other longer than they count.
    # A mask whose inside has its mean colour, and whose outside the background, explains |sum inside|^2 / area.
    sums, areas = np.einsum("mp,pc->mc", masks, off), masks.sum(1)
    gains = (sums**2).sum(1) / areas
    best = int(gains.argmax())
    color = sums[best] / areas[best]
    if gains[best] < MIN_GAIN * (off**2).sum() or np.sqrt((color**2).mean()) < MIN_CONTRAST:
        return None
    names = list(COLORS)
    distances = [np.square(background + color - COLORS[name]).sum() for name in names]
    return Thing(shapes[best], names[int(np.argmin(distances))], cell)


@cache
def thing_masks() -> tuple[list[str], np.ndarray]:
    """Each shape at each offset and size: the shapes' names, and masks of 0 and 1, (masks, pixels of a window)."""
    side = CELL_PX + 2 * MARGIN_PX
    shapes, masks = [], []
    for shape in SHAPES:
        for x in OFFSETS:
            for y in OFFSETS:
                for radius in RADII:
                    image = Image.new("L", (side, side))
                    middle = MARGIN_PX + CELL_PX // 2
                    draw_shape(ImageDraw.Draw(image), shape, middle + x, middle + y, radius, 1)
                    shapes.append(shape)
                    masks.append(np.asarray(image, np.float32).ravel())
    return shapes, np.stack(masks)


def read_sign(pixels: np.ndarray, background: np.ndarray) -> Sign | None:
    """The sign in a picture, or None."""
    signs, drawn, covered = sign_pictures()
    off = pixels.mean(2).ravel() - background.mean()
    # What is left of the squared difference from the background, |off - drawn|^2, where a sign covers it.
    ink = drawn - background.mean() * covered
    whole = np.einsum("sp,p->s", covered, off**2)
    gains = 2 * np.einsum("sp,p->s", ink, off) - (ink**2).sum(1)
    best = int(gains.argmax())
    return signs[best] if gains[best] > MIN_SIGN_GAIN * whole[best] else None


@cache
def sign_pictures() -> tuple[list[Sign], np.ndarray, np.ndarray]:
    """Each word in each row at each offset: the signs; their grey levels, 0 beside the sign; and 1 where the sign is.
    Both arrays are (signs, pixels of a picture)."""
    signs, pictures, covered = [], [], []
    for word in SIGN_WORDS:
        for row in range(3):
            for x in range(-2, 3):
                for y in range(1, 4):
                    image, known = Image.new("RGB", (SIZE_PX, SIZE_PX)), Image.new("L", (SIZE_PX, SIZE_PX))
                    left, top = 8 + x, row * CELL_PX + y
                    draw_sign_words(ImageDraw.Draw(image), word, left, top)
                    ImageDraw.Draw(known).rectangle([left - 2, top, left + 32, top + 12], fill=1)
                    signs.append(Sign(word, row))
                    covered.append(np.asarray(known, np.float32).ravel())
                    pictures.append(np.asarray(image, np.float32).mean(2).ravel() * covered[-1])
    return signs, np.stack(pictures), np.stack(covered)


def right_answer(question: Question, scene: Scene) -> str | None:
    """The right answer to a question about a scene, or None if it has none there."""
    words = set(question.text.split())
    things = [
        thing
        for thing in scene.things
        if words.isdisjoint(SHAPES) or thing.shape in words
        if words.isdisjoint(COLORS) or thing.color in words
    ]
    one = things[0] if len(things) == 1 else None
    match question.kind:
        case "color":
            return one.color if one else None
        case "shape":
            return one.shape if one else None
        case "where":
            return one.place if one else None
        case "count":
            return NUMBERS[len(scene.things)] if len(scene.things) < len(NUMBERS) else "more"
        case "exist":
            return "yes" if things else "no"
        case "ocr":
            return scene.sign.word if scene.sign else None
    return description(scene)
