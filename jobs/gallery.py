"""Draws one image in many views, as a model of 336 px sees them, to choose a view and its strength by eye.

python jobs/gallery.py --image photo.jpg
python jobs/gallery.py --image photo.jpg --views clean diffusion-300 rand_flip+diffusion-300 --out noise.png
python jobs/gallery.py --image photo.jpg --views clean regenerate-0.5 --regeneration.pipeline path/to/pipeline
"""

import python_check  # noqa: F401

# isort: split
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from seva_ray.augmentations import AUGMENTATIONS, CLEAN, parse_view
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.seeds import generator, key_of
from seva_ray.core.submission import check_lasts
from seva_ray.engines.img2img import Regeneration, Regenerator, check_pipeline
from seva_ray.runtime.cli import run
from seva_ray.vlm.images import load_image, pad_to_square

NOISE_VIEWS = tuple(f"diffusion-{step}" for step in (300, 500, 600, 800, 999))
VIEWS = (CLEAN, *NOISE_VIEWS, *(name for name in AUGMENTATIONS if name != "diffusion"))

SIZE_PX = 336
"""Side in px of the images that LLaVA-1.5's vision tower (CLIP ViT-L/14-336) reads. Mean and deviation of the colours
below are its own too."""
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)[:, None, None]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)[:, None, None]

GAP_PX, LINE_PX = 12, 22


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Views of one image, in a grid."""

    image: str
    """The image file."""
    out: str = "gallery.png"
    """The picture to write; its suffix says in which format. Only formats that keep every level show noise as it is."""
    views: tuple[str, ...] = VIEWS
    """The views to show, by their labels, in this order."""
    seed: int = 0
    """Seed of the augmentations."""
    columns: int = 6
    """Number of views in a row, 1 to 20."""
    regeneration: Regeneration = field(default_factory=Regeneration)
    """How the images of the views regenerate-<strength> are made."""

    def __post_init__(self) -> None:
        if not 1 <= self.columns <= 20:
            raise ConfigError(f"columns {self.columns}: must be 1 to 20")
        if not self.views:
            raise ConfigError("views: name at least one")
        for view in self.views:
            if isinstance(parse_view(view), Regenerate) and not self.regeneration.pipeline:
                raise ConfigError(f"view {view}: --regeneration.pipeline must name a directory of diffusers")


def main(config: Gallery) -> None:
    check_lasts("out", config.out)
    if config.regeneration.pipeline:
        check_pipeline(config.regeneration.pipeline)
    path = Path(config.image).resolve()
    if not path.exists():
        raise InputError(f"image {config.image}: no such file")
    image = load_image(path=path.name, data=None, image_root=str(path.parent))
    made = regenerated(config, image)
    tiles = [tile(made.get(view, image), view, config.seed) for view in config.views]
    picture = grid(tiles, captions(tiles, config.views, tile(image, CLEAN, config.seed)), config.columns)
    try:
        picture.save(config.out)
    except (OSError, ValueError) as error:
        raise InputError(f"out {config.out}: {getattr(error, 'strerror', None) or error}") from None
    print(f"{config.out}: {len(config.views)} views of {config.image}")


def regenerated(config: Gallery, image: Image.Image) -> dict[str, Image.Image]:
    """What the diffusion model makes of the image, by the views that need one."""
    parsed = {view: parse_view(view) for view in config.views}
    needs = {view: item.strength for view, item in parsed.items() if isinstance(item, Regenerate)}
    if not needs:
        return {}
    regenerator = Regenerator(config.regeneration, config.regeneration.pipeline)
    seeds = {view: key_of(config.seed, "gallery", view) for view in needs}
    return {view: regenerator([image], strength, [seeds[view]])[0] for view, strength in needs.items()}


def tile(image: Image.Image, view: str, seed: int) -> Image.Image:
    """The view as the model sees it; where the augmentation is impossible for this image, the reason."""
    augmentation = parse_view(view)
    if augmentation is None or isinstance(augmentation, Regenerate):
        return shown(preprocessed(image))
    random = generator(seed, "gallery", view)
    try:
        return shown(augmentation.pixels(preprocessed(augmentation.image(image, random)), random))
    except InputError as error:
        return written(str(error))


def preprocessed(image: Image.Image) -> np.ndarray:
    """Normalised pixels, float32 (C, H, W): padded to a square with CLIP's mean colour, resized, normalised."""
    red, green, blue = (int(channel * 255) for channel in MEAN.flat)
    square = pad_to_square(image, (red, green, blue)).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    return (np.asarray(square, np.float32).transpose(2, 0, 1) / 255 - MEAN) / STD


def shown(pixels: np.ndarray) -> Image.Image:
    """Normalised pixels for the eye: what noise puts beyond black and white is cut off here, not for the model."""
    levels = np.clip(np.rint((pixels * STD + MEAN) * 255), 0, 255).astype(np.uint8)
    return Image.fromarray(levels.transpose(1, 2, 0))


def written(text: str) -> Image.Image:
    """A grey tile that says why there is no view."""
    page = Image.new("RGB", (SIZE_PX, SIZE_PX), (236, 236, 236))
    lines = textwrap.fill(text, width=34)
    ImageDraw.Draw(page).multiline_text((20, 20), lines, fill=(150, 30, 30), font=ImageFont.load_default(16))
    return page


def captions(tiles: Sequence[Image.Image], views: Sequence[str], clean: Image.Image) -> list[str]:
    """Labels; half of the draws of some augmentations change nothing, which should not look like a defect."""
    pairs = zip(tiles, views, strict=True)
    return [f"{view} (drew no change)" if view != CLEAN and picture == clean else view for picture, view in pairs]


def grid(tiles: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Tiles in rows, each with its label below."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = SIZE_PX + GAP_PX, SIZE_PX + LINE_PX + GAP_PX
    picture = Image.new("RGB", (columns * width + GAP_PX, rows * height + GAP_PX), (255, 255, 255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for index, (view, label) in enumerate(zip(tiles, labels, strict=True)):
        row, column = divmod(index, columns)
        x, y = GAP_PX + column * width, GAP_PX + row * height
        picture.paste(view, (x, y))
        while draw.textlength(label, font) > SIZE_PX:
            label = label.rstrip("…")[:-1] + "…"
        draw.text((x, y + SIZE_PX + 2), label, fill=(20, 20, 20), font=font)
    return picture


PRESETS = {"default": Gallery(image=tyro.MISSING)}

if __name__ == "__main__":
    run(main, PRESETS, "Draw one image in many views.")
