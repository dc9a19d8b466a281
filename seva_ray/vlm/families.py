"""Which models are served exactly: those of whose own processor the rows are what it makes of a chat.

No family is named here. A model is asked for what every family does that follows the conventions of transformers, with
its own files: so a new family needs no line of code, and one that does otherwise is refused before anything is taken.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seva_ray.core.errors import InputError, line_of
from seva_ray.private.transformers import arguments_of_forward
from seva_ray.vlm.encoding import MADE_FOR_A_BATCH, Encoder
from seva_ray.vlm.levels import drawn_at_random
from seva_ray.vlm.model_files import check_model, reading, weight_headers
from seva_ray.vlm.rows import PIXELS, Row, stacked
from seva_ray.vlm.template_check import check_templates

SERVED = (
    "LLaVA, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL, SmolVLM, Idefics3, Gemma 3, "
    "PaliGemma, Mistral 3 and Pixtral"
)
"""The families that are known to be served."""

SHAPES = ((224, 224), (336, 112), (112, 336))
"""Width and height of the images that are tried: a square, a wide and a tall one."""

QUESTIONS = ("What is in the image?", "Is it?")
"""Of different lengths: what a processor makes of an image may not depend on its question."""


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
        model_type = json.loads(Path(directory, "config.json").read_text())["model_type"]
        raise InputError(
            f"model {directory}: model type {model_type!r} cannot be served exactly: {found}; families that are "
            f"served: {SERVED}"
        )
    with reading(directory, "config.json"):
        check_config(directory, encoder)
    check_structure(directory)


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
    """Of images of each of SHAPES."""
    return [encoder.row("", drawn_at_random(*shape)).features[PIXELS].shape for shape in SHAPES]


# What the model's own processor makes


def difference(encoder: Encoder) -> str | None:
    """How rows differ from what the model's own processor makes of a chat about an image of each of SHAPES, or why they
    cannot be batched or noised; None where all is well."""
    images = [drawn_at_random(*shape) for shape in SHAPES]
    for image in images:
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
    """As `difference`, for one image."""
    row, other = (encoder.row(question, image) for question in QUESTIONS)
    theirs = processed(encoder, QUESTIONS[0], as_seen(encoder, image))
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
    if not one_picture(encoder, row):
        return "the frames that its processor makes of an image differ"
    return None


def compare_batch(encoder: Encoder, images: Sequence[Image.Image]) -> str | None:
    """As `difference`, for several images at once."""
    theirs = processed_batch(encoder, [(QUESTIONS[0], as_seen(encoder, image)) for image in images])
    ours = stacked([encoder.row(QUESTIONS[0], image).features for image in images])
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


def processed(encoder: Encoder, question: str, image: Image.Image) -> dict[str, np.ndarray]:
    """All that the model's own processor and chat template make of a question about an image, as a batch of one.
    Nothing of the encoding is in it but the choice of Pillow and of the image processor's options."""
    return processed_batch(encoder, [(question, image)])


def processed_batch(encoder: Encoder, prompts: Sequence[tuple[str, Image.Image]]) -> dict[str, np.ndarray]:
    processor = copy.copy(encoder.processor)
    processor.image_processor = encoder.image_processor
    chats = [encoder.messages(question, image=image) for question, image in prompts]
    made = processor.apply_chat_template(
        chats if len(chats) > 1 else chats[0],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
        processor_kwargs=encoder.image_settings | ({"padding": True} if len(chats) > 1 else {}),
    )
    return {name: np.asarray(values) for name, values in made.items()}


# What the model's configuration says


AGREEING = {
    "patch_size": ("patch_size",),
    "merge_size": ("spatial_merge_size",),
    "spatial_merge_size": ("spatial_merge_size",),
    "temporal_patch_size": ("temporal_patch_size",),
    "pooling_kernel_size": ("pooling_kernel_size",),
    "image_seq_length": ("image_seq_length", "mm_tokens_per_image"),
}
"""Settings of processors, and the names by which the same setting stands in config.json."""


def check_config(directory: str, encoder: Encoder) -> None:
    """Check that config.json and the processor are of one model. Raises: InputError."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory)
    of_model = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if encoder.image_token_id != of_model:
        raise InputError(
            f"model {directory}: the image token is {encoder.image_token_id} in its tokenizer, and {of_model} in "
            "config.json"
        )
    if config.is_encoder_decoder or getattr(config.get_text_config(), "is_encoder_decoder", False):
        raise InputError(f"model {directory}: an encoder reads its prompts, so answers cannot follow them")
    for part in (encoder.processor, encoder.image_processor):
        for name, names in AGREEING.items():
            theirs = whole_number(getattr(part, name, None))
            for place in (config.vision_config, config):
                for other in names:
                    ours = whole_number(getattr(place, other, None))
                    if theirs is None or ours is None or theirs == ours:
                        continue
                    # Some processors count the patches that a projector has merged, as Aya Vision's does.
                    if name != "patch_size" or part is not encoder.processor or theirs % ours:
                        raise InputError(
                            f"model {directory}: {name} is {theirs} for its processor, and {other} {ours} in "
                            "config.json"
                        )
    if hasattr(encoder.processor, "num_additional_image_tokens"):
        check_image_tokens(directory, encoder, config)
    read_by_model = arguments_of_forward(config)
    row = encoder.row(QUESTIONS[0], drawn_at_random(*SHAPES[0]))
    if unread := {*row.tokens, *row.features} - read_by_model:
        raise InputError(
            f"model {directory}: model type {config.model_type!r} does not read {' and '.join(sorted(unread))}, which "
            "its processor makes"
        )


def check_structure(directory: str) -> None:
    """Check that transformers can make the model here, that it says which part of it is the language model, and that
    the weight files are whole and can hold its weights. No weight takes memory. Raises: InputError."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from seva_ray.vlm.model_parts import decoder_name

    with reading(directory, "config.json"), torch.device("meta"):
        try:
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(directory))
        except ImportError as error:  # a model may need a library that is not installed
            raise InputError(f"model {directory}: transformers cannot make it ({line_of(error)})") from None
        decoder_name(model)
    num_weights = sum(weight.numel() for weight in model.parameters())
    places = [entry["data_offsets"] for header in weight_headers(directory).values() for entry in header.values()]
    num_bytes = sum(end - start for start, end in places)
    # No format has more than one weight in a bit. A file without any weight is enough to encode prompts.
    if num_weights > 8 * num_bytes > 0:
        raise InputError(
            f"model {directory}: config.json describes {num_weights:,} weights, but the weight files hold only "
            f"{num_bytes:,} bytes"
        )


def whole_number(value: Any) -> int | None:
    """A setting that may be written as one number, or as height and width."""
    if isinstance(value, Mapping):
        value = value.get("height")
    if isinstance(value, list | tuple):
        (value,) = {*value} if len({*value}) == 1 else {None}
    return value if isinstance(value, int) else None


def check_image_tokens(directory: str, encoder: Encoder, config: Any) -> None:
    """Check that LLaVA's vision tower makes a feature for each image token, from pixels of the size that the processor
    makes. Raises: InputError."""
    side, patch = (getattr(config.vision_config, name, None) for name in ("image_size", "patch_size"))
    if side is None or patch is None:
        return  # a tower of another kind
    height, width = encoder.features["pixel_values"].shape[-2:]
    if (height, width) != (side, side):
        raise InputError(
            f"model {directory}: its processor makes images of {width} x {height} pixels, and its vision tower reads "
            f"{side} x {side}"
        )
    if encoder.features["pixel_values"].ndim > 4:
        return  # tiles: the number of tokens depends on the image
    of_image = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    cut = getattr(config, "vision_feature_select_strategy", "default") == "default"
    num_features = (side // patch) ** 2 + of_image - cut
    num_tokens = encoder.row(QUESTIONS[0], drawn_at_random(*SHAPES[0])).num_image_tokens
    if num_tokens != num_features:
        raise InputError(
            f"model {directory}: its processor makes {num_tokens} tokens of an image, and its vision tower "
            f"{num_features} features; processor_config.json needs the num_additional_image_tokens, patch_size and "
            "vision_feature_select_strategy that belong to this model (older files lack them)"
        )
