"""Which models are served exactly: those of whose own processor the encoding makes the same.

The encoding treats all models alike: each image is padded to a square, and has the same number of tokens and the same
shape of pixels. That is LLaVA-1.5's way. A model of another family may load, answer and train all the same, but on
other tokens, other pixels or less of the image than it was made for. So it is refused before anything is taken.
"""

import copy
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import pad_to_square
from seva_ray.vlm.model_files import check_model, weight_headers

SERVED = "LLaVA-1.5"
"""The families that are served today."""

SHAPES = ((224, 224), (336, 112), (112, 336))
"""Width and height of the images that are tried: a square, a wide and a tall one."""

READ = ("attention_mask", "pixel_values")
"""What a model reads of a processor's output beside the tokens, where the encoding makes all that it reads."""


@lru_cache(maxsize=16)
def check_served(directory: str) -> None:
    """Checks of a local model directory before any model loads. They take seconds at the first call, and none later.

    Raises: InputError where it is not a vision-language model, or one that is not served exactly.
    """
    check_model(directory)
    try:
        encoder = Encoder(directory)
        found = difference(encoder)
    except InputError as error:
        found = str(error).removeprefix(f"model {directory}: ")
    if found:
        model_type = json.loads(Path(directory, "config.json").read_text())["model_type"]
        raise InputError(
            f"model {directory}: model type {model_type!r} cannot be served exactly: {found}; served today: {SERVED}"
        )
    check_image_tokens(directory, encoder)
    weight_headers(directory)


def check_image_tokens(directory: str, encoder: Encoder) -> None:
    """Check that the vision tower makes a feature for each image token, from pixels of the size that the processor
    makes. Raises: InputError."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory)
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    if encoder.pixels_shape[1:] != (side, side):
        height, width = encoder.pixels_shape[1:]
        raise InputError(
            f"model {directory}: its processor makes images of {width} x {height} pixels, and its vision tower reads "
            f"{side} x {side}"
        )
    whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
    num_features = (side // patch) ** 2 + whole
    if encoder.num_image_tokens != num_features:
        raise InputError(
            f"model {directory}: its processor makes {encoder.num_image_tokens} tokens of an image, and its vision "
            f"tower {num_features} features; processor_config.json needs the num_additional_image_tokens, patch_size "
            "and vision_feature_select_strategy that belong to this model (older files lack them)"
        )
    if encoder.image_token_id != config.image_token_id:
        raise InputError(
            f"model {directory}: the image token is {encoder.image_token_id} in its tokenizer, and "
            f"{config.image_token_id} in config.json"
        )


def difference(encoder: Encoder) -> str | None:
    """How the encoding differs from what the model's own processor makes of a question about an image of each of
    SHAPES; None where it does not."""
    for width, height in SHAPES:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        seen = as_seen(encoder, image)
        try:
            found = compare(encoder, image, seen is image) or compare(encoder, seen, True)
        except Exception as error:  # a processor may raise anything
            found = f"its processor fails ({line_of(error)})"
        if found:
            return f"for a question about an image of {width} x {height} pixels {found}"
    return None


def compare(encoder: Encoder, image: Image.Image, exact: bool) -> str | None:
    """As `difference`, for one image. `exact`: its pixels must be equal too, not only as many."""
    question = "What is in the image?"
    theirs = processed(encoder, question, image)
    ids, pixels = encoder.expand(encoder.prompt_ids(question)), encoder.pixels(image)
    their_ids, their_pixels = list(theirs.pop("input_ids")[0]), theirs["pixel_values"]
    if len(their_ids) != len(ids):
        return f"its processor makes {len(their_ids)} tokens, and the encoding {len(ids)}"
    if their_ids != ids:
        return "its processor makes other tokens than the encoding"
    if more := [name for name, values in theirs.items() if name not in READ and np.any(values)]:
        return f"its processor makes {' and '.join(more)}, which the encoding does not"
    if their_pixels.shape != (1, *pixels.shape):
        return f"its processor makes pixels of shape {their_pixels.shape[1:]}, and the encoding {pixels.shape}"
    if exact and not np.array_equal(their_pixels[0], pixels):
        return "its processor makes other pixels than the encoding"
    return None


def as_seen(encoder: Encoder, image: Image.Image) -> Image.Image:
    """The image of which the model's own processor must make what the encoding makes.

    It is the image itself, with one known deviation: where the processor would cut an image's sides off, as LLaVA-1.5's
    does, the encoding pads the image to a square first, as SeVa does (arXiv 2404.10501).
    """
    crops = getattr(encoder.image_processor, "do_center_crop", False)
    return pad_to_square(image, encoder.background) if crops else image


def processed(encoder: Encoder, question: str, image: Image.Image) -> dict[str, np.ndarray]:
    """All that the model's own processor and chat template make of a question about an image, as a batch of one.
    Nothing of the encoding is in it but the choice of Pillow."""
    processor = copy.copy(encoder.processor)
    processor.image_processor = encoder.image_processor
    made = processor.apply_chat_template(
        encoder.messages(question, image=image),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
    )
    return {name: np.asarray(values) for name, values in made.items()}
