"""Whether the weight files hold the weights of the model that config.json describes, by their names and shapes.

transformers itself says so: it loads the model without memory for its weights. Otherwise it would fill a layer that no
file holds with random numbers, in training and in the reference, and would not say so.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.vlm.model_files import reading

DATA_TYPES = ("F16", "BF16", "F32", "F64", "I64", "I32", "BOOL")
"""Data types of weights, and of the places and masks that some models have beside them. transformers would take other
numbers for weights too, without the factors that belong to them."""


def check_weight_names(directory: str, model: Any, headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that every weight of `model` is in the weight files, in its shape. `headers`: see `weight_headers`. Files
    without any weight are enough to encode prompts, and pass. Raises: InputError."""
    import torch

    for file, header in headers.items():
        for name, entry in header.items():
            if entry["dtype"] not in DATA_TYPES:
                raise InputError(
                    f"model {directory}: {name} in {file} has the data type {entry['dtype']}; take the repository "
                    "whose weights have 16 bits"
                )
    shapes = {name: entry["shape"] for header in headers.values() for name, entry in header.items()}
    if not shapes:
        return
    weights = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}
    with reading(directory, "its list of weights"), quietly():
        _, found = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=weights,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"model {directory}: its weight files lack {listed(missing)}, which config.json describes")
    if others := sorted(found["mismatched_keys"]):
        name, in_files, described = others[0]
        more = f", and {len(others) - 1:,} more differ" if len(others) > 1 else ""
        raise InputError(
            f"model {directory}: {name} is {' x '.join(map(str, in_files))} in its weight files, and "
            f"{' x '.join(map(str, described))} by config.json{more}"
        )


def listed(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, transformers shows neither its progress nor its report about weights."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
