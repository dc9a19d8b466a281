"""Converts a checkpoint in LLaVA's own format to the transformers format, which all other jobs read.

    python jobs/convert.py --model llava-v1.5-7b --vision-tower clip-vit-large-patch14-336 --to llava-1.5-7b
    python jobs/convert.py --model seva-7b-diffu500 --base llava-v1.5-7b --to seva-7b-diffusion-500

The second is an adapter (LoRA), such as the authors' own SeVa, with the model that it was trained from.
"""

import python_check  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path

import tyro

from seva_ray.core.errors import ConfigError
from seva_ray.core.submission import check_lasts
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.vlm.convert import convert
from seva_ray.vlm.llava_format import Checkpoint
from seva_ray.vlm.models import place_of


@dataclass(frozen=True, kw_only=True)
class Convert:
    """One model from LLaVA's format to that of transformers."""

    model: str
    """The checkpoint: a directory in LLaVA's own format, a whole model or an adapter."""
    to: str
    """The directory to write. It must not exist."""
    base: str = ""
    """The model that an adapter was trained from: in LLaVA's format, in that of transformers, or Vicuna alone."""
    vision_tower: str = ""
    """The directory of CLIP ViT-L/14-336. It is needed if the checkpoint does not hold the weights of its vision
    tower."""


def main(config: Convert) -> None:
    check_lasts("to", config.to)
    if Path(config.to).exists():
        raise ConfigError(f"to {config.to}: exists already; name another directory")
    places = {name: place_of(place) for name in ("model", "base", "vision_tower") if (place := getattr(config, name))}
    convert(Checkpoint(**places), config.to)
    say(f"convert: {config.to} is a model in the transformers format")


PRESETS = {"llava": Convert(model=tyro.MISSING, to=tyro.MISSING)}

if __name__ == "__main__":
    run(main, PRESETS, "Convert a LLaVA checkpoint to the transformers format.")
