"""Rows: what a model reads of a question and an image, with and without noise, and rows as a batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seva_ray.augmentations import parse_view
from seva_ray.augmentations.diffusion import Diffusion, alpha_bar
from seva_ray.core.errors import InputError
from seva_ray.core.seeds import generator
from seva_ray.core.system_texts import VICUNA_V1
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.processed import processed
from seva_ray.vlm.rows import Copies, Row, axes_of, copies_in, stacked, with_pixels
from seva_ray.vlm.views import Viewer
from tests import llava_by_hand
from tests.tiny_models import save_family

QUESTION = "How many are there?"
SIZES = [(60, 90), (90, 60), (70, 70)]
"""Width and height."""


def photograph(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_a_row_of_llava_has_the_tokens_and_the_pixels_of_the_padded_square(size, toy_model):
    encoder, image = Encoder(toy_model, VICUNA_V1), photograph(*size)
    row = encoder.row(QUESTION, image)
    assert row.ids == llava_by_hand.token_ids(encoder, QUESTION)
    assert row.tokens == {}
    assert list(row.features) == ["pixel_values"]
    assert row.features["pixel_values"].tobytes() == llava_by_hand.pixels(encoder, image).tobytes()
    assert row.features["pixel_values"].shape == (1, *llava_by_hand.pixels(encoder, image).shape)
    assert row.size == (max(size), max(size))


def test_a_row_of_llava_in_a_view_has_the_pixels_that_it_always_had(toy_model, tmp_path):
    photograph(60, 90).save(tmp_path / "a.png")
    prompt = {"prompt_id": "a", "question": QUESTION, "image_path": "a.png", "image_bytes": None}
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6, seed=3)
    for view in ("clean", "diffusion-500", "pad-20", "rand_flip+diffusion-300"):
        augmentation, random = parse_view(view), generator(3, "a", view)
        image = photograph(60, 90) if augmentation is None else augmentation.image(photograph(60, 90), random)
        pixels = llava_by_hand.pixels(viewer.encoder, image)
        if augmentation is not None:
            pixels = augmentation.pixels(pixels, random)
        assert viewer.row(prompt, view).features["pixel_values"].tobytes() == pixels.tobytes()


FAMILIES = ["qwen2_5_vl", "llava_next", "internvl", "idefics3", "gemma3", "paligemma", "mistral3"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_what_the_family_s_own_processor_makes(name, tmp_path):
    encoder = Encoder(save_family(name, tmp_path / name))
    for size in SIZES:
        image = photograph(*size)
        theirs = processed(encoder, QUESTION, image)
        row = encoder.row(QUESTION, image)
        assert row.ids == theirs.pop("input_ids")[0].tolist()
        assert row.size == (image.height, image.width)
        for made_for_a_batch in {"attention_mask", "labels"} & {*theirs}:
            del theirs[made_for_a_batch]
        assert {*row.tokens, *row.features} == {*theirs}
        for values in row.tokens.values():
            assert values.shape == (len(row.ids),)
        for key, values in theirs.items():
            ours = row.tokens[key][None] if key in row.tokens else row.features[key]
            assert np.array_equal(ours, values), key


# Noise


NOISE = Diffusion(noise_step=500)


def noised(encoder: Encoder, row: Row) -> Row:
    return encoder.changed(row, lambda pixels: NOISE.pixels(pixels, generator(1)))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_frames_of_a_still_image_have_the_same_noise(name, tmp_path):
    """Noise of its own for each frame would be averaged by the vision tower: at step 500 it would see step 433."""
    encoder = Encoder(save_family(name, tmp_path / name))
    row = encoder.row(QUESTION, photograph(60, 90))
    clean, noisy = (read.features["pixel_values"] for read in (row, noised(encoder, row)))
    side = encoder.image_processor.patch_size**2
    frames = [pixels.reshape(len(clean), 3, 2, side) for pixels in (clean, noisy)]
    for pixels in frames:
        assert np.array_equal(pixels[:, :, 0], pixels[:, :, 1])
    share = alpha_bar()[500]
    eps = (frames[1][:, :, 0] - np.sqrt(share) * frames[0][:, :, 0]) / np.sqrt(1 - share)
    assert eps.size == len(clean) * 3 * side > 10_000
    assert abs(eps.mean()) < 0.05
    assert abs(eps.std() - 1) < 0.05
    assert len(np.unique(eps.round(4))) > 0.5 * eps.size, "pixels share their noise"
    assert abs(np.corrcoef(eps[:, 0].ravel(), eps[:, 1].ravel())[0, 1]) < 0.1, "channels share their noise"


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "internvl", "mistral3", "gemma3"])
def test_every_pixel_of_every_tile_has_noise_of_its_own(name, tmp_path):
    encoder = Encoder(save_family(name, tmp_path / name))
    row = encoder.row(QUESTION, photograph(60, 90))
    noisy = noised(encoder, row)
    by_hand = NOISE.pixels(row.features["pixel_values"], generator(1))
    assert noisy.features["pixel_values"].tobytes() == by_hand.tobytes()
    assert noisy.features["pixel_values"].dtype == np.float32
    assert noisy.features.keys() == row.features.keys()
    for key in row.features.keys() - {"pixel_values"}:
        assert np.array_equal(noisy.features[key], row.features[key])
    assert (noisy.ids, noisy.tokens) == (row.ids, row.tokens)


def test_pixels_that_only_fill_up_a_shape_get_no_noise(tmp_path):
    encoder = Encoder(save_family("idefics3", tmp_path / "idefics3"))
    row = encoder.row(QUESTION, photograph(60, 90))
    there = row.features["pixel_attention_mask"].copy()
    there[:, -1, :, 20:] = 0
    row = replace(row, features={**row.features, "pixel_attention_mask": there})
    changed = noised(encoder, row).features["pixel_values"] != row.features["pixel_values"]
    assert np.array_equal(changed.any(-3), there.astype(bool))
    assert changed[np.broadcast_to(there[:, :, None] > 0, changed.shape)].mean() > 0.99


def test_an_image_that_a_processor_cannot_read_is_one_line(tmp_path):
    encoder = Encoder(save_family("qwen2_5_vl", tmp_path / "qwen"))
    with pytest.raises(InputError, match=r"processor cannot read an image of 2 x 500 px \(.*aspect ratio"):
        encoder.row(QUESTION, Image.new("RGB", (2, 500)))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_a_placeholder_of_any_kind_in_a_question_makes_no_row(name, tmp_path):
    encoder = Encoder(save_family(name, tmp_path / name))
    words = {"qwen2_5_vl": ["<|image_pad|>", "<|video_pad|>"], "gemma3": ["<start_of_image>", "<image_soft_token>"]}
    for word in words[name]:
        with pytest.raises(InputError, match="holds the image placeholder"):
            encoder.row(f"What is {word}?", photograph(30, 30))


def test_questions_about_one_image_share_its_features(toy_model):
    encoder, image = Encoder(toy_model), photograph(60, 90)
    first, second = (encoder.row(question, image) for question in ("what color ?", "how many ?"))
    assert first.features["pixel_values"] is second.features["pixel_values"]
    assert first.ids != second.ids
    other = encoder.row("how many ?", photograph(90, 60))
    assert not np.array_equal(other.features["pixel_values"], first.features["pixel_values"])
    again = encoder.row("what color ?", image)
    assert again.features["pixel_values"].tobytes() == first.features["pixel_values"].tobytes()


def test_a_question_with_the_image_placeholder_makes_no_row(toy_model):
    with pytest.raises(InputError, match="holds the image placeholder <image>"):
        Encoder(toy_model).row("What is <image>?", photograph(30, 30))


def test_a_batch_joins_images_and_fills_up_tiles_and_sizes_with_zeros():
    patches = [{"pixel_values": np.full((count, 3), count)} for count in (4, 2)]
    assert stacked(patches, {})["pixel_values"].tolist() == [[4] * 3] * 4 + [[2] * 3] * 2
    wide, tall = {"x": np.ones((1, 2, 3), np.float32)}, {"x": np.full((1, 3, 2), 2, np.float32)}
    both = stacked([wide, tall], {})["x"]
    assert both.dtype == np.float32
    assert both.tolist() == [[[1, 1, 1], [1, 1, 1], [0, 0, 0]], [[2, 2, 0], [2, 2, 0], [2, 2, 0]]]


def test_a_batch_joins_features_along_the_axis_along_which_the_processor_does():
    """MiniCPM-V's patches lie side by side."""
    one, other = ({"x": np.full((1, 3, 2, width), width), "sizes": np.array([[2, width]])} for width in (4, 2))
    both = {"x": np.concatenate([one["x"], other["x"]], 3), "sizes": np.array([[2, 4], [2, 2]])}
    assert axes_of(one, other, both) == {"x": 3}
    found = stacked([one, other], {"x": 3})
    assert {*found} == {*both}
    assert all(np.array_equal(found[name], both[name]) for name in both)
    assert axes_of({"x": np.ones((1, 4))}, {"x": np.ones((1, 2))}, {"x": np.ones((2, 4))}) == {}


# Pictures to look at


def prompt_about(image: Image.Image, directory: Path) -> dict[str, Any]:
    image.save(directory / "a.png")
    return {"prompt_id": "a", "question": QUESTION, "image_path": "a.png", "image_bytes": None}


def test_the_picture_of_a_row_of_llava_is_what_the_model_saw(toy_model, tmp_path):
    prompt = prompt_about(photograph(60, 90), tmp_path)
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6)
    for view in ("clean", "diffusion-500"):
        assert np.array_equal(viewer.picture(prompt, view)[None], viewer.row(prompt, view).features["pixel_values"])
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(viewer.encoder.levels(viewer.encoder.normalised(levels)), levels)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "internvl"])
def test_the_picture_of_patches_or_tiles_is_a_likeness_of_the_image(name, tmp_path):
    image = photograph(600, 900)
    prompt = prompt_about(image, tmp_path)
    encoder = Encoder(save_family(name, tmp_path / name))
    viewer = Viewer(encoder=encoder, image_root=str(tmp_path), max_pixels=10**6)
    clean, noisy = (viewer.picture(prompt, view) for view in ("clean", "diffusion-500"))
    small = image.copy()
    small.thumbnail((448, 448))
    assert np.array_equal(encoder.levels(clean), np.asarray(small))
    share = alpha_bar()[500]
    assert abs((noisy - np.sqrt(share) * clean).std() / np.sqrt(1 - share) - 1) < 0.02


def test_patches_that_only_fill_up_a_shape_stay_as_they_are():
    """The mask of LFM2-VL has one value for each patch."""
    mask = np.array([[1, 0]])
    row = Row(ids=[1], num_image_tokens=1, features={"pixel_values": np.ones((1, 2, 3)), "pixel_attention_mask": mask})
    made = with_pixels(row, lambda pixels: pixels + 1).features["pixel_values"]
    assert made.tolist() == [[[2.0] * 3, [1.0] * 3]]


@pytest.mark.parametrize(
    ("shape", "axis", "frames"),
    [((3, 2, 49), 2, 2), ((2, 3, 49), 1, 2), ((2, 7, 7, 3), 1, 1), ((3, 7, 7, 2), 4, 1)],
    ids=["channels of frames", "frames of channels", "an axis of frames", "frames at the end"],
)
def test_copies_of_a_pixel_are_found_and_get_the_same_noise(shape, axis, frames):
    """Qwen-VL's layout, Muse-Glimmer's and Inkling's, and one that nobody has."""
    one = np.random.default_rng(0).standard_normal((20, *shape)).astype(np.float32)
    pixels = np.repeat(one.take([0], axis), 2, axis)
    flat = pixels.reshape(20, -1) if frames > 1 else pixels
    copies = copies_in(flat, frames)
    assert copies is not None
    assert copies.axis == axis
    row = Row(ids=[1], num_image_tokens=1, features={"pixel_values": flat})
    noisy = with_pixels(row, lambda values: NOISE.pixels(values, generator(1)), copies).features["pixel_values"]
    assert noisy.shape == flat.shape
    parts = noisy.reshape(pixels.shape)
    assert np.array_equal(parts.take([0], axis), parts.take([1], axis))
    assert np.array_equal(parts.take([0], axis), NOISE.pixels(pixels.take([0], axis), generator(1)))


@pytest.mark.parametrize("shape", [(20, 294), (1, 3, 28, 28), (1, 5, 3, 14, 14)])
def test_pixels_that_are_there_once_have_no_copies(shape):
    pixels = np.random.default_rng(0).standard_normal(shape)
    for frames in (1, 2):
        assert copies_in(pixels, frames) is None
    assert copies_in(np.repeat(pixels[:, :1], 2, 1), 1) == Copies((2, *shape[2:]), 1)
