"""Whether config.json describes a model that the weight files can hold, found out without memory for its weights.

One number of config.json that is far too large would otherwise fill the memory with the parts of a model, such as
experts, before anything is known of its weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.model_files import reading, weight_headers
from seva_ray.vlm.weights_check import check_weight_names

MOST_PARTS = 400_000
"""Modules and weight tensors of a model. A model of 60 layers with 400 experts each, as modules, has 200,000."""


def check_structure(directory: str) -> None:
    """Check that transformers can make the model here, that it answers token by token, that it says which part of it is
    the language model, and that the weight files are whole and hold its weights. Raises: InputError."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationMixin

    from seva_ray.vlm.model_parts import decoder_name

    headers = weight_headers(directory)
    places = [entry["data_offsets"] for header in headers.values() for entry in header.values()]
    num_bytes = sum(end - start for start, end in places)
    with reading(directory, "config.json"), torch.device("meta"), bounded(directory, num_bytes):
        try:
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(directory))
        except ImportError as error:  # a model may need a library that is not installed
            raise InputError(f"model {directory}: transformers cannot make it ({line_of(error)})") from None
        if not isinstance(model, GenerationMixin):
            raise InputError(
                f"model {directory}: model type {model.config.model_type!r} does not answer token by token, so its "
                "answers have no log-probabilities"
            )
        decoder_name(model)
    check_weights(directory, sum(weight.numel() for weight in model.parameters()), num_bytes)
    check_weight_names(directory, model, headers)


@contextmanager
def bounded(directory: str, num_bytes: int) -> Iterator[None]:
    """Inside, the making of a model ends with an InputError as soon as it has too many parts, or more weights than the
    weight files of `num_bytes` bytes can hold."""
    from torch.nn.modules.module import (
        register_module_module_registration_hook,
        register_module_parameter_registration_hook,
    )

    num_parts = num_weights = 0

    def count(module: Any, name: str, part: Any) -> None:
        nonlocal num_parts, num_weights
        num_parts += 1
        if num_parts > MOST_PARTS:
            raise InputError(
                f"model {directory}: config.json describes a model of more than {MOST_PARTS:,} parts, such as experts"
            )
        if hasattr(part, "numel"):
            num_weights += part.numel()
            check_weights(directory, num_weights // 4, num_bytes)  # parts may share their weights, or get others

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_weights(directory: str, num_weights: int, num_bytes: int) -> None:
    """Raises: InputError if weight files of so many bytes cannot hold so many weights: no format has more than one
    weight in a bit. A file without any weight is enough to encode prompts."""
    if num_weights > 8 * num_bytes > 0:
        raise InputError(
            f"model {directory}: config.json describes at least {num_weights:,} weights, but the weight files hold "
            f"only {num_bytes:,} bytes"
        )
