"""Whether config.json and the processor of a model directory are of one model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.private.transformers import arguments_of_forward
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.levels import drawn_at_random
from seva_ray.vlm.model_files import settings_in
from seva_ray.vlm.trial import QUESTIONS, SHAPES

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
    check_vision_layers(directory, config)
    check_ends(directory)
    if hasattr(encoder.processor, "num_additional_image_tokens"):
        check_image_tokens(directory, encoder, config)
    read_by_model = arguments_of_forward(config)
    row = encoder.row(QUESTIONS[0], drawn_at_random(*SHAPES[0]))
    if unread := {*row.tokens, *row.features} - read_by_model:
        raise InputError(
            f"model {directory}: model type {config.model_type!r} does not read {' and '.join(sorted(unread))}, which "
            "its processor makes"
        )


def check_ends(directory: str) -> None:
    """Check that the tokens that end an answer are given by number. Raises: InputError."""
    file = Path(directory, "generation_config.json")
    ends = settings_in(file).get("eos_token_id") if file.exists() else None
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and not isinstance(end, int):
            raise InputError(f"model {directory}: {file.name}: eos_token_id is {end!r}, and must be a token's number")


def check_vision_layers(directory: str, config: Any) -> None:
    """Check that the vision tower has the layers whose outputs the language model reads. Raises: InputError."""
    read = getattr(config, "vision_feature_layer", None)
    number = getattr(config.vision_config, "num_hidden_layers", None)
    for layer in read if isinstance(read, list) else [read]:
        if isinstance(layer, int) and isinstance(number, int) and not -number - 1 <= layer <= number:
            raise InputError(
                f"model {directory}: config.json: vision_feature_layer is {layer}, and the vision tower has {number} "
                "layers"
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
