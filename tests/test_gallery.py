"""The gallery: every view of an image in one picture, and the user's mistakes as one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery import GAP_PX, LINE_PX, SIZE_PX, VIEWS, Gallery, captions, main, tile
from seva_ray.augmentations import AUGMENTATIONS, CLEAN
from seva_ray.core.errors import ConfigError, InputError
from tests.real_photos import photo, photo_path

ROOT = Path(__file__).parent.parent
WIDTH, HEIGHT = SIZE_PX + GAP_PX, SIZE_PX + LINE_PX + GAP_PX


def cell(picture: Image.Image, row: int, column: int) -> np.ndarray:
    x, y = GAP_PX + column * WIDTH, GAP_PX + row * HEIGHT
    return np.asarray(picture.crop((x, y, x + SIZE_PX, y + SIZE_PX))).astype(float)


def test_the_default_shows_every_augmentation() -> None:
    assert {view.split("-")[0] for view in VIEWS} == {CLEAN, *AUGMENTATIONS}


def test_a_picture_shows_each_view_in_its_cell(tmp_path: Path) -> None:
    views = ("clean", "pad-0", "diffusion-500", "grayscale", "random_crop-600")
    main(Gallery(image=str(photo_path("sklearn/china.jpg")), out=str(tmp_path / "g.png"), views=views, columns=2))
    with Image.open(tmp_path / "g.png") as picture:
        assert picture.size == (2 * WIDTH + GAP_PX, 3 * HEIGHT + GAP_PX)
        clean, same, noised = cell(picture, 0, 0), cell(picture, 0, 1), cell(picture, 1, 0)
        grey, refused = cell(picture, 1, 1), cell(picture, 2, 0)

    assert (np.abs(clean[:50] - (122, 116, 104)) <= 1).all()  # the border that makes 640x427 a square
    assert np.array_equal(same, clean)
    assert np.corrcoef(noised.ravel(), clean.ravel())[0, 1] == pytest.approx(0.85, abs=0.1)
    assert np.ptp(grey[60:270], axis=2).max() <= 1
    assert (refused[:15] == 236).all()
    assert refused.min() < 100  # the reason, in words


def test_the_clean_view_is_the_image_at_the_models_size() -> None:
    image = photo("skimage/astronaut.png")
    shown = np.asarray(tile(image, "clean", seed=0)).astype(int)
    assert np.abs(shown - np.asarray(image.resize((336, 336), Image.Resampling.BICUBIC))).max() <= 1


def test_a_view_that_drew_no_change_says_so() -> None:
    image = photo("sklearn/flower.jpg").resize((90, 60))
    tiles = [tile(image, view, seed=0) for view in ("clean", "pad-0", "grayscale")]
    assert captions(tiles, ["clean", "pad-0", "grayscale"], tiles[0]) == [
        "clean",
        "pad-0 (drew no change)",
        "grayscale",
    ]


def test_a_seed_draws_the_same_view_again() -> None:
    image = photo("sklearn/flower.jpg").resize((90, 60))
    assert tile(image, "moco", seed=1) == tile(image, "moco", seed=1)
    assert tile(image, "moco", seed=1) != tile(image, "moco", seed=2)


@pytest.mark.parametrize("wrong", [{"views": ("sharpen",)}, {"views": ()}, {"columns": 0}])
def test_a_wrong_field_is_refused_when_the_job_is_built(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Gallery(image="photo.jpg", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("out", ["missing/gallery.png", "gallery.docx"])
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path, out: str) -> None:
    with pytest.raises(InputError, match=f"^out .*{out}: "):
        main(Gallery(image=str(photo_path("sklearn/flower.jpg")), out=str(tmp_path / out), views=("clean",)))


def test_the_command_ends_with_one_line_for_a_missing_image() -> None:
    command = [sys.executable, "jobs/gallery.py", "--image", "nowhere/photo.jpg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: image nowhere/photo.jpg: no such file\n"
