"""Which models are served exactly: those of whose own processor the rows are what it makes of a chat.

No family is named here. A model is asked for what every family does that follows the conventions of transformers, with
its own files: so a new family needs no line of code, and one that does otherwise is refused before anything is taken.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.config_check import check_config
from seva_ray.vlm.encoding import MADE_FOR_A_BATCH, Encoder
from seva_ray.vlm.levels import drawn_at_random
from seva_ray.vlm.model_files import check_model, reading
from seva_ray.vlm.processed import processed_batch
from seva_ray.vlm.rows import PIXELS, Row, stacked
from seva_ray.vlm.structure_check import check_structure
from seva_ray.vlm.template_check import check_templates
from seva_ray.vlm.trial import LARGE, QUESTIONS, SHAPES

SERVED = (
    "LLaVA, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, SmolVLM, Idefics3, Gemma 3, "
    "PaliGemma, Mistral 3 and Pixtral"
)
"""The families that are known to be served."""


@lru_cache(maxsize=16)
def check_served(directory: str) -> None:
    """Checks of a local model directory before any model loads. They take seconds at the first call, and none later.

    Raises: InputError where it is not a vision-language model, or one that is not served exactly.
    """
    check_model(directory)
    check_templates(directory)
    try:
        encoder = Encoder(directory)
        found = difference(encoder)
    except InputError as error:
        found = str(error).removeprefix(f"model {directory}: ")
    if found:
        model_type = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))["model_type"]
        raise InputError(
            f"model {directory}: model type {model_type!r} cannot be served exactly: {found}; families that are "
            f"served: {SERVED}"
        )
    check_structure(directory)
    with reading(directory, "config.json"):
        check_config(directory, encoder)


@lru_cache(maxsize=16)
def check_image_options(directory: str, image_options: str) -> None:
    """Check other settings of the image processor of a model that `check_served` accepts. Raises: InputError where the
    model would not read what its processor makes then."""
    if not image_options:
        return
    bounded, usual = Encoder(directory, image_options=image_options), Encoder(directory)
    if found := difference(bounded):
        raise InputError(f"model {directory}: image_options {image_options} cannot be served exactly: {found}")
    (now, *_), (before, *others) = (shapes_of_pixels(encoder) for encoder in (bounded, usual))
    if len(before) > 2 and all(before[-2:] == other[-2:] for other in others) and now[-2:] != before[-2:]:
        raise InputError(
            f"model {directory}: image_options {image_options}: its processor would make images of "
            f"{now[-1]} x {now[-2]} pixels, and its vision tower was made for {before[-1]} x {before[-2]}"
        )


def shapes_of_pixels(encoder: Encoder) -> list[tuple[int, ...]]:
    """The shapes of the pixels that the processor makes of images of each of SHAPES."""
    return [encoder.row("", drawn_at_random(*shape)).features[PIXELS].shape for shape in SHAPES]


# What the model's own processor makes


def difference(encoder: Encoder) -> str | None:
    """How rows differ from what the model's own processor makes of a chat about an image of each of SHAPES and a LARGE
    one, or why they cannot be batched or noised; None where all is well."""
    images = [drawn_at_random(*shape) for shape in SHAPES]
    for image in (*images, drawn_at_random(*LARGE)):
        try:
            found = compare(encoder, image)
        except Exception as error:  # a processor may raise anything
            found = f"its processor fails ({line_of(error)})"
        if found:
            return f"for a question about an image of {image.width} x {image.height} pixels {found}"
    try:
        return compare_batch(encoder, images)
    except Exception as error:
        return f"its processor fails on several images at once ({line_of(error)})"


def compare(encoder: Encoder, image: Image.Image) -> str | None:
    """The same as `difference`, for one image."""
    row, other = (encoder.row(question, image) for question in QUESTIONS)
    theirs = processed_batch(encoder, [(QUESTIONS[0], as_seen(encoder, image))])
    ids = theirs["input_ids"][0].tolist()
    if len(ids) != len(row.ids):
        return f"its processor makes {len(ids)} tokens of a chat, and {len(row.ids)} of its text"
    if ids != list(row.ids):
        return "its processor makes other tokens of a chat than of its text"
    if not np.all(theirs["attention_mask"]):
        return "its processor hides tokens of a prompt from the model"
    if others := [name for name, values in theirs.items() if name != PIXELS and values.dtype.kind == "f"]:
        return f"its processor makes pixels of an image also as {' and '.join(others)}, which would have no noise"
    ours = {name: values[None] for name, values in row.tokens.items()} | dict(row.features)
    if found := unequal(ours, theirs):
        return f"its processor makes {found} of a chat than of its text"
    if not row.num_image_tokens:
        return f"its prompt does not have the token {encoder.image_token_id} for the image"
    if unequal(row.features, other.features):
        return "what its processor makes of an image depends on the question"
    if list(row.ids) == list(other.ids):
        return "its chat template leaves the question out"
    if not np.isfinite(row.features[PIXELS]).all():
        return "its processor makes pixels that are no numbers"
    if {*row.features} != {*encoder.features}:
        return f"its processor makes {sorted(row.features)} of it, and {sorted(encoder.features)} of others"
    if not one_picture(encoder, row) or (encoder.frames > 1 and encoder.copies is None):
        return "the frames that its processor makes of an image differ"
    return None


def compare_batch(encoder: Encoder, images: Sequence[Image.Image]) -> str | None:
    """The same as `difference`, for several images at once."""
    theirs = processed_batch(encoder, [(QUESTIONS[0], as_seen(encoder, image)) for image in images])
    ours = stacked([encoder.row(QUESTIONS[0], image).features for image in images], encoder.axes)
    found = unequal(ours, {name: values for name, values in theirs.items() if name in ours})
    return f"its processor makes {found} of several images than of one after the other" if found else None


def unequal(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> str | None:
    """What differs between two sets of arrays."""
    names = {*ours} ^ ({*theirs} - {*MADE_FOR_A_BATCH})
    if names:
        return f"other arrays ({' and '.join(sorted(names))})"
    for name, values in ours.items():
        if values.shape != theirs[name].shape:
            return f"{name} of another shape ({theirs[name].shape} and {values.shape})"
        if not np.array_equal(values, theirs[name]):
            return f"other {name}"
    return None


def one_picture(encoder: Encoder, row: Row) -> bool:
    """Whether a change of pixels that changes nothing leaves the row as it is: it reads one of several equal frames."""
    return not unequal(encoder.changed(row, lambda pixels: pixels).features, row.features)


def as_seen(encoder: Encoder, image: Image.Image) -> Image.Image:
    """The image of which the model's own processor must make what a row is.

    It is the image itself, with one known deviation: where the processor would cut an image's sides off, as LLaVA-1.5's
    does, a row is of the image padded to a square, as SeVa does (arXiv 2404.10501).
    """
    return encoder.as_seen(image)
