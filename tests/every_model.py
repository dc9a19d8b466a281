"""Checkpoints of all families that transformers knows and that nothing here was written for. What follows the
conventions of transformers is served, and what does not is refused in one line.

`outcome(name, directory)` says which of the two it is.
"""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.families import check_served
from tests.more_models import MORE
from tests.newest_models import NEWEST
from tests.other_models import OTHER
from tests.rarer_models import RARER
from tests.tiny_models import Made, save_weights
from tests.untrained_models import UNTRAINED

EVERY: dict[str, Callable[[], Made]] = MORE | OTHER | RARER | NEWEST | UNTRAINED
"""By the family's `model_type`."""

BARE = ("chameleon", "evolla", "fuyu", "mistral4", "pi0", "t5gemma2", "udop", "vision-encoder-decoder")
"""Families of whose files nothing is made but the `model_type`: their configurations name no vision tower."""


def save_every(name: str, directory: Path, weights: bool = True) -> str:
    """Write a family's checkpoint; its directory."""
    if name in BARE:
        (directory / "config.json").write_text(json.dumps({"model_type": name}))
        return str(directory)
    config, processor = EVERY[name]()
    config.save_pretrained(directory)
    processor.save_pretrained(directory)
    if weights and name not in UNTRAINED:
        save_weights(config, processor.tokenizer, directory)
    else:
        save_file({}, directory / "model.safetensors")
    return str(directory)


def outcome(name: str, directory: Path, weights: bool = True) -> str:
    """`served`, or the line of the refusal."""
    place = save_every(name, directory, weights)
    try:
        check_served(place)
    except InputError as error:
        return line_of(error).replace(f"model {place}: ", "")
    return "served"
