"""What LLaVA-1.5 reads of a question and an image, made by hand: what rows are compared with."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import pad_to_square


def prompt_ids(encoder: Encoder, question: str) -> list[int]:
    """Token ids of the prompt with one image token, and with BOS once if the tokenizer has one."""
    text, bos = encoder.prompt_text(question), encoder.tokenizer.bos_token
    begins = bool(bos) and text.startswith(bos)
    return list(encoder.tokenizer(text, add_special_tokens=not begins)["input_ids"])


def num_image_tokens(encoder: Encoder) -> int:
    """One for each patch; the class token is not read."""
    side = pixels(encoder, Image.new("RGB", (9, 9))).shape[-1]
    return int((side // encoder.processor.patch_size) ** 2)


def expand(encoder: Encoder, ids: Sequence[int]) -> list[int]:
    """The prompt with as many image tokens as the model reads."""
    image, number = encoder.image_token_id, num_image_tokens(encoder)
    return [copy for token in ids for copy in ([token] * number if token == image else [token])]


def pixels(encoder: Encoder, image: Image.Image) -> np.ndarray:
    """Normalised pixels, float32 (C, H, W), of the image on a square of the mean colour."""
    mean = [int(channel * 255) for channel in encoder.image_processor.image_mean]
    square = pad_to_square(image, (mean[0], mean[1], mean[2]))
    return np.asarray(encoder.image_processor(images=square, return_tensors="np")["pixel_values"][0], np.float32)


def token_ids(encoder: Encoder, question: str) -> list[int]:
    """The whole prompt as the model reads it."""
    return expand(encoder, prompt_ids(encoder, question))
