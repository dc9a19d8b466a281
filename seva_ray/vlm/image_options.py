"""Other settings of a model's own image processor, by which a user bounds what an image becomes.

In: JSON, such as `{"size": {"longest_edge": 1003520}}` for Qwen-VL, which counts pixels, or `{"max_patches": 6}` for
InternVL, which counts tiles. Out: the settings for the image processor. A setting that it does not have is refused.

LLaVA-NeXT and LLaVA-OneVision cut an image by the grid of tiles of a list that fits it best. The model has the same
list, and finds the grid again by the image's size. So the list cannot change, and `max_patches` makes an image smaller
before their processor gets it: it then fits into the best grid of at most so many tiles.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from PIL import Image

from seva_ray.core.errors import ConfigError, InputError


def options_of(image_options: str) -> dict[str, Any]:
    """Settings of an image processor that are written as JSON. Raises: ConfigError."""
    if not image_options:
        return {}
    try:
        options = json.loads(image_options)
    except ValueError:
        options = None
    if not isinstance(options, dict) or not options:
        raise ConfigError(
            f"image_options {image_options!r}: must be settings of the model's image processor as JSON, such as "
            '{"size": {"longest_edge": 1003520}}'
        )
    return options


def image_options_of(recipe: Mapping[str, Any]) -> str:
    """The settings with which the responses of this recipe were made, as JSON."""
    options = recipe.get("image_options")
    return json.dumps(options) if options else ""


def own_settings(image_processor: Any) -> set[str]:
    """The names of the settings that this kind of image processor has beside the usual ones. They may not be set, as
    Gemma 3's `do_pan_and_scan`."""
    from transformers.processing_utils import ImagesKwargs

    own = getattr(image_processor, "valid_kwargs", ImagesKwargs)
    return {*own.__annotations__} - {*ImagesKwargs.__annotations__}


def is_setting(name: str, value: Any) -> bool:
    return value is not None and not name.startswith("_") and not name.endswith("_type") and not callable(value)


OF_THE_MODEL = ("image_grid_pinpoints", "merge_size", "patch_size", "temporal_patch_size")
"""Settings that the model has too."""


def settings_of(image_processor: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with all parts of the settings that they change a part of. Raises: InputError."""
    settings = {}
    for name, value in options.items():
        if name == MOST_TILES and counts_tiles(image_processor, options):
            continue
        if name in OF_THE_MODEL:
            raise InputError(f"image_options: {name} is what the model was made for, and cannot be changed")
        now = getattr(image_processor, name, None)
        if not is_setting(name, now) and name not in own_settings(image_processor):
            there = {name for name, value in vars(image_processor).items() if is_setting(name, value)}
            known = sorted(there | own_settings(image_processor))
            raise InputError(f"image_options: its image processor has no {name}; it has {', '.join(known)}")
        if is_dataclass(now) and not isinstance(now, type):
            now = asdict(now)
        if isinstance(value, Mapping) and isinstance(now, Mapping):
            parts = {part: setting for part, setting in now.items() if setting is not None}
            if unknown := {*value} - {*parts}:
                raise InputError(f"image_options: {name} has no {min(unknown)}; it has {', '.join(sorted(parts))}")
            value = {**parts, **value}
        settings[name] = value
    return settings


MOST_TILES, GRIDS = "max_patches", "image_grid_pinpoints"
"""The name of the setting that bounds the number of tiles, and of the list of grids, each as height and width in px."""

Grids = Sequence[tuple[int, int]]


def grids_within(image_processor: Any, options: Mapping[str, Any]) -> Grids:
    """The grids of at most `max_patches` tiles; empty if the image is not to be made smaller. Raises: InputError."""
    if not counts_tiles(image_processor, options):
        return ()
    most, grids = options[MOST_TILES], [(height, width) for height, width in getattr(image_processor, GRIDS)]
    if not isinstance(most, int) or isinstance(most, bool):
        raise InputError(f"image_options: {MOST_TILES} {most!r} must be a whole number")
    tile = min(height for height, _ in grids) * min(width for _, width in grids)
    found = [(height, width) for height, width in grids if height * width <= most * tile]
    if not found:
        least = min(height * width // tile for height, width in grids)
        raise InputError(f"image_options: {MOST_TILES} {most}: its smallest grid has {least} tiles")
    return found if len(found) < len(grids) else ()


def counts_tiles(image_processor: Any, options: Mapping[str, Any]) -> bool:
    """Whether the options bound the tiles of an image processor that has no setting for their number."""
    known = [getattr(image_processor, name, None) for name in (MOST_TILES, GRIDS)]
    return MOST_TILES in options and known[0] is None and bool(known[1])


def size_within(grids: Grids, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image of this width and height, made smaller where it fits into no such grid."""
    from transformers.image_processing_utils import select_best_resolution

    width, height = size
    most_high, most_wide = select_best_resolution((height, width), list(grids))
    scale = min(most_wide / width, most_high / height)
    if scale >= 1:
        return size
    return min(most_wide, max(1, round(width * scale))), min(most_high, max(1, round(height * scale)))


def made_smaller(image: Image.Image, grids: Grids, resample: int) -> Image.Image:
    """The image at the size of `size_within`."""
    size = size_within(grids, image.size)
    return image if size == image.size else image.resize(size, resample)
