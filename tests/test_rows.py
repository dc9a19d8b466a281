"""Rows: what a model reads of a question and an image, and rows as a batch."""

import numpy as np
import pytest
from PIL import Image

from seva_ray.augmentations import parse_view
from seva_ray.core.errors import InputError
from seva_ray.core.seeds import generator
from seva_ray.vlm.encoding import VICUNA_V1, Encoder
from seva_ray.vlm.families import processed
from seva_ray.vlm.rows import stacked
from seva_ray.vlm.views import Viewer
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
    assert row.ids == encoder.expand(encoder.prompt_ids(QUESTION))
    assert row.tokens == {}
    assert list(row.features) == ["pixel_values"]
    assert row.features["pixel_values"].tobytes() == encoder.pixels(image).tobytes()
    assert row.features["pixel_values"].shape == (1, *encoder.pixels(image).shape)
    assert row.size == (max(size), max(size))


def test_a_row_of_llava_in_a_view_has_the_pixels_that_it_always_had(toy_model, tmp_path):
    photograph(60, 90).save(tmp_path / "a.png")
    prompt = {"prompt_id": "a", "question": QUESTION, "image_path": "a.png", "image_bytes": None}
    viewer = Viewer(encoder=Encoder(toy_model), image_root=str(tmp_path), max_pixels=10**6, seed=3)
    for view in ("clean", "diffusion-500", "pad-20", "rand_flip+diffusion-300"):
        assert viewer.row(prompt, view).features["pixel_values"].tobytes() == viewer.pixels(prompt, view).tobytes()
    noise = parse_view("diffusion-500")
    by_hand = noise.pixels(viewer.pixels(prompt), generator(3, "a", "diffusion-500"))
    assert viewer.row(prompt, "diffusion-500").features["pixel_values"].tobytes() == by_hand.tobytes()


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


def test_a_question_with_the_image_placeholder_makes_no_row(toy_model):
    with pytest.raises(InputError, match="holds the image placeholder <image>"):
        Encoder(toy_model).row("What is <image>?", photograph(30, 30))


def test_a_batch_joins_images_and_fills_up_tiles_and_sizes_with_zeros():
    patches = [{"pixel_values": np.full((count, 3), count)} for count in (4, 2)]
    assert stacked(patches)["pixel_values"].tolist() == [[4] * 3] * 4 + [[2] * 3] * 2
    wide, tall = {"x": np.ones((1, 2, 3), np.float32)}, {"x": np.full((1, 3, 2), 2, np.float32)}
    both = stacked([wide, tall])["x"]
    assert both.dtype == np.float32
    assert both.tolist() == [[[1, 1, 1], [1, 1, 1], [0, 0, 0]], [[2, 2, 0], [2, 2, 0], [2, 2, 0]]]
