"""Scenes of coloured shapes and a sign, their pictures, and questions with answers.

A scene has 1-4 objects on a 3x3 grid, and half of the scenes have a sign with a word. There are three splits, each with
its own randomness. `sft` is biased (every shape has a favourite colour, some words are frequent, "yes" is more likely),
so that a model that learns from it gets a language prior. `unlabelled` and `test` are not biased.

Scene number `index` of (seed, split) depends on nothing else, so any part of a world can be made anywhere.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from seva_ray.core.errors import ConfigError
from seva_ray.core.seeds import generator
from seva_ray.toy.drawing import draw_shape, draw_sign_words

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (52, 92, 212),
    "yellow": (238, 200, 40),
    "purple": (142, 68, 173),
    "orange": (240, 128, 30),
}
COLOR_NAMES = tuple(COLORS)
FAVOURITE = dict(zip(SHAPES, COLOR_NAMES, strict=True))
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four")
SIGN_WORDS = (
    *("stop", "exit", "open", "cafe", "bank", "taxi", "shop", "park"),  # frequent in the biased world, in this order
    *("fire", "door", "milk", "book", "game", "lake", "moon", "road"),
)
SPLITS = ("sft", "unlabelled", "test")
EXIST_CATEGORIES = ("random", "popular", "adversarial")
SIZE_PX, CELL_PX = 48, 16
SFT_BIAS = 0.6


@dataclass(frozen=True)
class Thing:
    """One object. No two things of a scene share both shape and colour."""

    shape: str
    color: str
    cell: int

    @property
    def place(self) -> str:
        return PLACES[self.cell]


@dataclass(frozen=True)
class Sign:
    """A dark sign that fills one row of the grid."""

    word: str
    row: int


@dataclass(frozen=True, kw_only=True)
class Scene:
    seed: int
    split: str
    index: int
    things: tuple[Thing, ...]
    sign: Sign | None


@dataclass(frozen=True, kw_only=True)
class Question:
    kind: str
    """`color`, `shape`, `where`, `count`, `exist`, `ocr` or `describe`."""
    category: str | None = None
    """The kind of an `exist` question: `random`, `popular` or `adversarial`."""
    text: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera, which changes a picture before it writes an 8-bit file. The default is the deployment camera.

    `pixel = grey + contrast * (pixel - grey) + grain * normal`, rounded and clipped to 0-255. The default corresponds
    to the diffusion noise of step 480 (sqrt(alpha_bar) 0.886, sigma 0.464 after CLIP's normalisation).
    """

    contrast: float = 0.886
    """Factor on every pixel's distance from mid-grey, above 0 and up to 1. Below 1, less of the noise is clipped."""
    grain: float = 31.6
    """Standard deviation of the sensor noise in 8-bit levels, independent for every pixel and channel; 0 for none."""

    def __post_init__(self) -> None:
        if not 0 < self.contrast <= 1:
            raise ConfigError(f"contrast must be in (0, 1], not {self.contrast}")
        if not 0 <= self.grain <= 255:
            raise ConfigError(f"grain must be in 0-255, not {self.grain}")

    def photograph(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The 8-bit RGB picture that this camera makes of a picture."""
        if self.contrast == 1 and self.grain == 0:
            return picture
        noise = rng.standard_normal(picture.shape, dtype=np.float32)
        exposed = 127.5 + self.contrast * (picture.astype(np.float32) - 127.5) + self.grain * noise
        return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


CLEAN = Camera(contrast=1, grain=0)
DEPLOYMENT = Camera()
CAMERAS = {"clean": CLEAN, "deployment": DEPLOYMENT}


def _stream(scene_or_key: Scene | tuple[int, str, int], part: str) -> np.random.Generator:
    """One generator per scene and part, so that a new draw in one part does not change the others."""
    if isinstance(scene_or_key, Scene):
        scene_or_key = scene_or_key.seed, scene_or_key.split, scene_or_key.index
    seed, split, index = scene_or_key
    return generator(seed, "toy", split, index, part)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Scene number `index` of a split.

    Raises: ConfigError for an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = _stream((seed, split, index), "scene")
    bias = SFT_BIAS if split == "sft" else 0.0
    sign = draw_sign(rng, bias) if rng.random() < 0.5 else None
    cells = [cell for cell in range(9) if sign is None or cell // 3 != sign.row]
    chosen = rng.permutation(cells)[: rng.integers(1, 5)]
    things: list[Thing] = []
    for cell in sorted(int(cell) for cell in chosen):
        things.append(draw_thing(rng, bias, cell, taken={(thing.shape, thing.color) for thing in things}))
    return Scene(seed=seed, split=split, index=index, things=tuple(things), sign=sign)


def draw_sign(rng: np.random.Generator, bias: float) -> Sign:
    """Draw a sign. In a biased world its word comes mostly from the beginning of the list."""
    row = int(rng.integers(3))
    if rng.random() < bias:
        return Sign(SIGN_WORDS[min(int(rng.exponential(2.0)), len(SIGN_WORDS) - 1)], row)
    return Sign(str(rng.choice(SIGN_WORDS)), row)


def draw_thing(rng: np.random.Generator, bias: float, cell: int, taken: set[tuple[str, str]]) -> Thing:
    while True:
        shape = SHAPES[rng.integers(6)]
        color = FAVOURITE[shape] if rng.random() < bias else COLOR_NAMES[rng.integers(6)]
        if (shape, color) not in taken:
            return Thing(shape, color, cell)


def render(scene: Scene, camera: Camera = CLEAN) -> np.ndarray:
    """The picture of a scene, uint8 (48, 48, 3). Only the camera's changes differ between cameras."""
    rng = _stream(scene, "picture")
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), (int(rng.integers(205, 245)),) * 3)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_shape(draw, thing, rng)
    if scene.sign:
        left, top = 8 + int(rng.integers(-2, 3)), scene.sign.row * CELL_PX + int(rng.integers(1, 4))
        draw_sign_words(draw, scene.sign.word, left, top)
    texture = rng.integers(-6, 7, (SIZE_PX, SIZE_PX, 1))
    picture = np.clip(np.asarray(image).astype(np.int16) + texture, 0, 255).astype(np.uint8)
    return camera.photograph(picture, _stream(scene, "camera"))


def _draw_shape(draw: ImageDraw.ImageDraw, thing: Thing, rng: np.random.Generator) -> None:
    """Draw an object. Its place, size and colour vary a little."""
    x = thing.cell % 3 * CELL_PX + 8 + int(rng.integers(-1, 2))
    y = thing.cell // 3 * CELL_PX + 8 + int(rng.integers(-1, 2))
    r = int(rng.integers(5, 8))
    red, green, blue = np.clip(COLORS[thing.color] + rng.normal(0, 14, 3), 0, 255).astype(int).tolist()
    draw_shape(draw, thing.shape, x, y, r, (red, green, blue))


def description(scene: Scene) -> str:
    """One sentence that names every object, and the sign."""
    things = " , ".join(f"a {thing.color} {thing.shape} at the {thing.place}" for thing in scene.things)
    return f"there is {things}" + (f" , and a sign that says {scene.sign.word}" if scene.sign else "") + " ."


def partner(shape: str) -> tuple[str, str]:
    """The (shape, colour) that comes with a shape in the world of habits: see habits.py."""
    other = SHAPES[SHAPES.index(shape) ^ 1]
    return other, FAVOURITE[other]


def missing_partners(scene: Scene) -> list[tuple[str, str]]:
    """The partners of the scene's things that are not there, sorted."""
    present = {(thing.shape, thing.color) for thing in scene.things}
    return sorted({partner(thing.shape) for thing in scene.things} - present)


def absent_pair(scene: Scene, category: str, rng: np.random.Generator, partners: bool = False) -> tuple[str, str]:
    """A (shape, colour) that the scene lacks.

    `random` is any such pair. `popular` is a shape in its favourite colour. `adversarial` is a shape of the scene in
    its favourite colour, which the scene has only in other colours, so that a language prior says yes. If there is no
    such pair, it shares its shape or colour with the scene. With `partners`, it is a missing partner, or else popular.
    """
    present = {(thing.shape, thing.color) for thing in scene.things}
    pool = [(shape, color) for shape in SHAPES for color in COLOR_NAMES if (shape, color) not in present]
    popular = [pair for pair in pool if FAVOURITE[pair[0]] == pair[1]]
    if category == "popular":
        pool = popular
    elif category == "adversarial" and partners:
        pool = missing_partners(scene) or popular
    elif category == "adversarial":
        shapes, colors = {shape for shape, _ in present}, {color for _, color in present}
        tempting = [pair for pair in pool if pair[0] in shapes and FAVOURITE[pair[0]] == pair[1]]
        pool = tempting or [pair for pair in pool if pair[0] in shapes or pair[1] in colors]
    return pool[rng.integers(len(pool))]


def questions(scene: Scene, partners: bool = False) -> list[Question]:
    """The questions about a scene. `partners`: adversarial ones are about the missing partners of its things.

    The `sft` split has four yes/no questions, 60 % with the answer yes, mostly with easy negatives. (With only two of
    them, models of some seeds answer "yes" to all for a long time.) The other splits have one yes and one no. The
    scene's number decides their category, so every category has as many positive as negative questions.
    """
    rng = _stream(scene, "questions")
    asked = ask_about(scene, rng)
    if scene.split == "sft":
        for _ in range(4):
            yes, easy = rng.random() < 0.6, rng.random() < 0.7
            category = "random" if easy else EXIST_CATEGORIES[rng.integers(3)]
            asked.append(_exist(scene, yes, category, rng))
    else:
        category = EXIST_CATEGORIES[scene.index % 3]
        asked += [_exist(scene, yes, category, rng, partners) for yes in (True, False)]
    if scene.sign:
        asked.append(Question(kind="ocr", text="what does the sign say ?", answer=scene.sign.word))
    asked.append(Question(kind="describe", text="describe the image .", answer=description(scene)))
    return asked


def ask_about(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """The questions about one thing, and how many there are. Those about color and shape ask only about a thing that
    they identify uniquely."""
    asked = []
    shapes, colors = [thing.shape for thing in scene.things], [thing.color for thing in scene.things]
    if unique := [thing for thing in scene.things if shapes.count(thing.shape) == 1]:
        thing = unique[rng.integers(len(unique))]
        asked.append(Question(kind="color", text=f"what color is the {thing.shape} ?", answer=thing.color))
    if unique := [thing for thing in scene.things if colors.count(thing.color) == 1]:
        thing = unique[rng.integers(len(unique))]
        asked.append(Question(kind="shape", text=f"what shape is the {thing.color} object ?", answer=thing.shape))
    thing = scene.things[rng.integers(len(scene.things))]
    asked.append(Question(kind="where", text=f"where is the {thing.color} {thing.shape} ?", answer=thing.place))
    return [*asked, Question(kind="count", text="how many objects are there ?", answer=NUMBERS[len(scene.things)])]


def is_there(shape: str, color: str) -> str:
    return f"is there a {color} {shape} in the image ?"


def _exist(scene: Scene, yes: bool, category: str, rng: np.random.Generator, partners: bool = False) -> Question:
    if yes:
        thing = scene.things[rng.integers(len(scene.things))]
        shape, color = thing.shape, thing.color
    else:
        shape, color = absent_pair(scene, category, rng, partners)
    answer = "yes" if yes else "no"
    return Question(kind="exist", category=category, text=is_there(shape, color), answer=answer)


@cache
def words() -> tuple[str, ...]:
    """Every word that questions and answers use, sorted."""
    names = " ".join((*SHAPES, *COLOR_NAMES, *PLACES, *NUMBERS, *SIGN_WORDS, "yes", "no"))
    asked = "what color is the ? shape object where how many objects are there a in image does sign say describe"
    told = ". , and that says at"
    return tuple(sorted({*names.split(), *asked.split(), *told.split()}))
