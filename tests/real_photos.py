"""Real photographs as a LLaVA-format folder, in every image mode that occurs in the wild.

`write_photos(folder)` writes `folder/photos.json` and `folder/images/<source>/...`. The photographs are those inside
the scikit-image and scikit-learn wheels; the questions about them are in real_photos.json, in the published format.
By hand: `python -m tests.real_photos /some/folder`.
"""

import importlib.resources
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = Path(__file__).with_suffix(".json")
"""29 questions about 14 images of ocr_vqa, textvqa and gqa, and one text-only row."""

TURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""How a camera stores an upright picture under each of these EXIF orientations."""


def photo(name: str) -> Image.Image:
    """`skimage/<file>` or `sklearn/<file>`."""
    with Image.open(photo_path(name)) as image:
        return image.copy()


def photo_path(name: str) -> Path:
    package, _, file = name.partition("/")
    inner = {"skimage": "data", "sklearn": "datasets/images"}[package]
    return Path(str(importlib.resources.files(package))) / inner / file


def write_photos(folder: Path) -> Path:
    """The path of the JSON file; `image_root` is the folder `images` beside it."""
    images = folder / "images"
    for source in ("ocr_vqa", "textvqa", "gqa"):
        (images / source).mkdir(parents=True, exist_ok=True)

    page = photo("skimage/page.png")
    page.save(images / "ocr_vqa/page.jpg")  # grayscale JPEG
    page.crop((8, 8, 368, 40)).resize((3000, 40)).convert("RGB").save(images / "ocr_vqa/banner.jpg")  # very wide
    page.save(images / "ocr_vqa/leaflet.jpg", format="GIF")  # as many book covers: a GIF by another name
    save_turned(photo("skimage/text.png").convert("RGB"), images / "ocr_vqa/handwriting.jpg", orientation=6)

    photo("skimage/astronaut.png").save(images / "textvqa/astronaut.jpg")  # RGB JPEG
    photo("skimage/rocket.jpg").convert("CMYK").save(images / "textvqa/rocket.jpg")  # CMYK JPEG
    save_turned(photo("skimage/motorcycle_left.png"), images / "textvqa/motorcycle.jpg", orientation=3)
    sixteen = np.asarray(photo("skimage/coins.png")).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(images / "textvqa/coins.png")  # 16-bit grayscale

    cat = photo("skimage/chelsea.png").quantize(64)
    cat.save(images / "gqa/cat.png", transparency=bytes([0, 128] + [255] * 62))  # palette with transparency
    photo("skimage/horse.png").save(images / "gqa/horse.png")  # RGBA
    photo("skimage/camera.png").convert("LA").save(images / "gqa/camera.png")  # grayscale with alpha
    shutil.copyfile(photo_path("sklearn/china.jpg"), images / "gqa/china.jpg")
    shutil.copyfile(photo_path("sklearn/flower.jpg"), images / "gqa/flower.jpg")
    photo("sklearn/flower.jpg").crop((320, 200, 321, 201)).save(images / "gqa/dot.png")  # 1x1

    shutil.copyfile(ROWS, folder / "photos.json")
    return folder / "photos.json"


def save_turned(image: Image.Image, path: Path, *, orientation: int) -> None:
    """A JPEG that lies on its side or head, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.transpose(TURNED[orientation]).save(path, exif=exif, quality=95)


if __name__ == "__main__":
    print(write_photos(Path(sys.argv[1])))
