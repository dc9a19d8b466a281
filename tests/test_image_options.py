"""Other settings of an image processor bound what an image becomes, or are refused in one line."""

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.dpo.layout_check import check_layouts
from seva_ray.dpo.policy import load_model
from seva_ray.engines.config import Generate
from seva_ray.engines.vllm_models import check_attention
from seva_ray.stages.base_model import check_start
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import check_image_options
from seva_ray.vlm.image_options import grids_within, size_within
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.views import Viewer
from tests.family_pictures import pairs
from tests.tiny_models import FAMILIES, save_family

__all__ = ["pairs"]


def photograph() -> Image.Image:
    """A photograph of 12 megapixels."""
    small = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((4000, 3000))


QWEN = '{"size": {"longest_edge": 7840}}'
TILE = '{"size": {"longest_edge": 28}}'
BOUNDS = {
    "qwen2_vl": (QWEN, 54, 6),
    "qwen2_5_vl": (QWEN, 54, 6),
    "qwen3_vl": (QWEN, 54, 6),
    "qwen3_vl_moe": (QWEN, 54, 6),
    "llava_next": ('{"max_patches": 2}', 70, 44),
    "llava_onevision": ('{"max_patches": 2}', 70, 44),
    "internvl": ('{"max_patches": 1}', 20, 4),
    "idefics3": (TILE, 20, 4),
    "smolvlm": (TILE, 20, 4),
    "mistral3": ('{"size": {"longest_edge": 56}}', 12, 4),
    "pixtral": ('{"size": {"longest_edge": 56}}', 48, 12),
    "gemma3": ('{"do_pan_and_scan": true, "pan_and_scan_min_crop_size": 10}', 4, 12),
}
"""The settings, and the number of the image's tokens without and with them. By itself Gemma 3 does not cut an image."""

UNBOUNDED = ("llava", "llava_interleave", "paligemma")
"""Every image is as many tokens as any other."""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_of_every_family_changes_the_tokens_of_12_megapixels(name: str, tmp_path: Path):
    if name == "smolvlm" and find_spec("num2words") is None:
        pytest.skip("SmolVLM's processor needs num2words")
    options, free, bounded = BOUNDS[name]
    directory, image = save_family(name, tmp_path / name), photograph()
    check_image_options(directory, options)
    usual, other = (Encoder(directory, image_options=given).row("What?", image) for given in ("", options))
    assert (usual.num_image_tokens, other.num_image_tokens) == (free, bounded)
    assert (usual.features["pixel_values"].size > other.features["pixel_values"].size) == (free > bounded)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_family_without_a_bound_refuses_one_in_one_line(name: str, tmp_path: Path):
    assert {*BOUNDS, *UNBOUNDED} == {*FAMILIES}
    directory = save_family(name, tmp_path / name)
    for options in ('{"max_patches": 2}', '{"max_pixels": 9}', '{"do_image_splitting": false}'):
        with pytest.raises(InputError, match="its image processor has no ") as caught:
            check_image_options(directory, options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "paligemma",
            '{"size": {"height": 14, "width": 14}}',
            "images of 14 x 14 pixels, and its vision tower was made",
        ),
        (
            "internvl",
            '{"size": {"height": 14, "width": 14}}',
            "images of 14 x 14 pixels, and its vision tower was made",
        ),
        (
            "idefics3",
            '{"max_image_size": {"longest_edge": 14}}',
            "14 x 14 pixels, and its vision tower was made for 28",
        ),
        ("llava_next", '{"max_patches": 1}', "image_options: max_patches 1: its smallest grid has 2 tiles"),
        ("llava_onevision", '{"max_patches": 1.5}', "image_options: max_patches 1.5 must be a whole number"),
        ("llava_onevision", '{"image_grid_pinpoints": [[28, 56]]}', "is what the model was made for"),
    ],
)
def test_a_setting_with_which_the_model_cannot_be_served_is_refused_before_anything_starts(
    name: str, options: str, line: str, tmp_path: Path
):
    directory = save_family(name, tmp_path / name)
    with pytest.raises(InputError) as caught:
        check_start(Store(str(tmp_path / "runs")), directory, options)
    assert str(caught.value).startswith(f"model {directory}: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


class Tiles:
    """The image processor of LLaVA-OneVision as it was published: 1 to 6 rows and columns of tiles of 384 px."""

    image_grid_pinpoints: ClassVar = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


def test_an_image_is_made_smaller_until_the_processor_cuts_it_into_few_tiles_and_no_further():
    from transformers.image_processing_utils import select_best_resolution

    grids = grids_within(Tiles(), {"max_patches": 4})
    assert all(height * width <= 4 * 384**2 for height, width in grids)
    assert size_within(grids, (640, 480)) == (640, 480), "a photograph of COCO fits as it is"
    assert size_within(grids, (4000, 3000)) == (768, 576)
    assert grids_within(Tiles(), {"max_patches": 36}) == ()
    random = np.random.default_rng(0)
    for width, height in random.integers(20, 5000, (300, 2)).tolist():
        made = size_within(grids, (width, height))
        rows, columns = select_best_resolution((made[1], made[0]), Tiles.image_grid_pinpoints)
        assert rows * columns <= 4 * 384**2, (width, height, made)
        assert made == (width, height) or made[0] in (384, 768, 1152, 1536) or made[1] in (384, 768, 1152, 1536)
        assert made[0] / made[1] == pytest.approx(width / height, rel=0.02 + 1 / min(made))


def test_the_memory_that_is_asked_for_follows_the_bound(tmp_path: Path):
    directory = save_family("llava_onevision", tmp_path / "onevision", weights=True)
    free, bounded = shape_of(directory), shape_of(directory, '{"max_patches": 2}')
    assert bounded.num_image_tokens < free.num_image_tokens
    assert bounded.image_bytes == pytest.approx(free.image_bytes * 3 / 5, rel=0.01)


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3"])
def test_training_scores_bounded_rows_exactly(name: str, pairs, tmp_path: Path):
    """Gemma 3's pan and scan gives a prompt several images, whose tokens see those of their own image."""
    directory = save_family(name, tmp_path / name, weights=True)
    viewer = Viewer(encoder=Encoder(directory, image_options=BOUNDS[name][0]), image_root=None, max_pixels=MAX_PIXELS)
    model = load_model(directory, "float32").eval()
    with torch.no_grad():
        assert check_layouts(model, viewer, pairs, packed=True) is None


def test_vllm_is_not_asked_to_attend_in_both_directions_within_several_images(tmp_path: Path):
    directory = save_family("gemma3", tmp_path / "gemma3")
    check_attention(Encoder(directory), on_cpu=False)
    with pytest.raises(InputError, match=r"see each other in both directions, in several parts of a prompt"):
        check_attention(Encoder(directory, image_options=BOUNDS["gemma3"][0]), on_cpu=False)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ('{"max_pixels": 5}', "image_options: its image processor has no max_pixels; it has crop_size, "),
        ('{"size": {"longest": 5}}', "image_options: size has no longest; it has shortest_edge"),
        ('{"preprocess": 5}', "its image processor has no preprocess"),
        ('{"patch_size": 5}', "patch_size is what the model was made for, and cannot be changed"),
    ],
)
def test_a_setting_that_an_image_processor_does_not_have_is_one_line(options, line, toy_model):
    with pytest.raises(InputError) as caught:
        Encoder(toy_model, image_options=options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", ["size=5", "{}", "[1]", "{'size': 5}"])
def test_settings_that_are_no_json_are_named_before_anything_starts(options):
    with pytest.raises(ConfigError, match="must be settings of the model's image processor as JSON, such as"):
        Generate(image_options=options)
