"""Levels: pixels in 8 bits, which become exactly what a family's own processor makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.seeds import generator, generator_at
from seva_ray.engines import Decoding, FakeEngine
from seva_ray.engines.base import Request
from seva_ray.engines.fake import FakeEncoder, FakeGenerator
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import pad_to_square
from seva_ray.vlm.levels import drawn_at_random, exact_table, shrunk, size_of_squares
from seva_ray.vlm.processed import processed
from seva_ray.vlm.views import Viewer
from tests.tiny_models import save_family

FAMILIES = ["llava_next", "llava_onevision", "qwen2_5_vl", "internvl", "idefics3", "gemma3", "mistral3"]
GREY = (122, 116, 104)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_pixels_travel_as_levels_and_become_its_processor_s_bit_for_bit(name, tmp_path):
    encoder = Encoder(save_family(name, tmp_path / name))
    for size in ((61, 97), (97, 61), (640, 480)):
        image = drawn_at_random(*size)
        raw = encoder.raw("what?", image)
        assert raw.features["pixel_values"].dtype == np.uint8
        made = encoder.finished(raw).features["pixel_values"]
        theirs = processed(encoder, "what?", image)["pixel_values"]
        assert (made.dtype, made.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(made, theirs)
        assert encoder.finished(encoder.finished(raw)).features["pixel_values"] is made, "it is finished once"


def test_llava_resizes_by_pillow_alone_and_makes_what_its_processor_makes(toy_model):
    encoder = Encoder(toy_model)
    assert encoder.side == (48, 48)
    for size in ((61, 97), (97, 61), (70, 70), (640, 480), (640, 3), (5, 4)):
        image = drawn_at_random(*size)
        theirs = encoder.image_processor(images=[pad_to_square(image, encoder.background)], return_tensors="np")
        assert np.array_equal(encoder.row("what?", image).features["pixel_values"], theirs["pixel_values"]), size


class Shifted(tf.CLIPImageProcessorPil):
    """Its pixels depend on more than their own levels."""

    def normalize(self, image: np.ndarray, mean: Any, std: Any, **options: Any) -> np.ndarray:
        return super().normalize(image, mean, std, **options) + image.mean()


class Raises(tf.CLIPImageProcessorPil):
    def rescale(self, image: np.ndarray, scale: float, **options: Any) -> np.ndarray:
        raise TypeError("no such step")


SMALL = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}


@pytest.mark.parametrize("kind", [Shifted, Raises])
def test_a_processor_whose_pixels_do_not_follow_from_levels_has_no_table(kind):
    assert exact_table(kind(**SMALL), lambda image: image) is None


def test_pixels_without_a_table_travel_as_the_processor_makes_them(toy_model, monkeypatch):
    monkeypatch.setattr("seva_ray.vlm.encoding.exact_table", lambda *given: None)
    encoder, image = Encoder(toy_model), drawn_at_random(61, 97)
    raw = encoder.raw("what?", image).features["pixel_values"]
    assert raw.dtype == np.float32
    assert np.array_equal(raw, encoder.row("what?", image).features["pixel_values"])
    monkeypatch.undo()
    assert np.array_equal(raw, Encoder(toy_model).row("what?", image).features["pixel_values"])


def test_a_processor_that_does_more_than_resize_a_square_is_left_to_itself():
    plain = tf.CLIPImageProcessorPil(**SMALL)
    assert size_of_squares(plain, GREY) == (28, 28)
    larger_first = tf.CLIPImageProcessorPil(**SMALL | {"size": {"shortest_edge": 32}})
    assert size_of_squares(larger_first, GREY) is None


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (50, 50), (300, 2), (1001, 640)])
def test_a_wide_image_is_padded_between_its_two_passes_with_the_same_result(size):
    image, resample = drawn_at_random(*size), Image.Resampling.BICUBIC
    whole = pad_to_square(image, GREY).resize((28, 28), resample)
    assert np.array_equal(np.asarray(shrunk(image, GREY, (28, 28), resample)), np.asarray(whole))


def test_a_generator_goes_on_where_another_one_was():
    first = generator(3, "a", "diffusion-500")
    first.standard_normal(5, dtype=np.float32)
    state = first.bit_generator.state
    assert np.array_equal(generator_at(state).standard_normal(9), first.standard_normal(9))


def test_an_engine_answers_a_row_as_it_travels_as_it_answers_the_finished_row(tmp_path: Path):
    drawn_at_random(60, 90).save(tmp_path / "a.png")
    prompt = {"prompt_id": "a", "question": "what?", "image_path": "a.png", "image_bytes": None}
    viewer = Viewer(encoder=FakeEncoder(), image_root=str(tmp_path), max_pixels=10**6)
    engine = FakeGenerator(FakeEngine(), Decoding())
    rows = [make(prompt, view) for view in ("clean", "diffusion-500") for make in (viewer.raw, viewer.row)]
    assert [row.noise is None for row in rows] == [True, True, False, True]
    texts = [engine.answer(Request(prompt_id="a", row=row, image_id="i")).text for row in rows]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_the_pixels_of_the_square_count_only_for_a_model_whose_images_are_padded(toy_model, tmp_path):
    drawn_at_random(300, 10).save(tmp_path / "wide.png")
    wide = {"image_path": "wide.png", "image_bytes": None}
    tiles = Encoder(save_family("internvl", tmp_path / "internvl"))
    for encoder, refused in ((Encoder(toy_model), True), (tiles, False)):
        viewer = Viewer(encoder=encoder, image_root=str(tmp_path), max_pixels=300 * 10)
        if refused:
            with pytest.raises(InputError, match="300x10 padded to a square has more than 3,000 pixels"):
                viewer.image(wide)
        else:
            assert viewer.image(wide).size == (300, 10)
