"""Augmentations: how the view of an image for the rejected response differs from the clean view. One file per kind.

A view's label is the name of an augmentation (`random_rotation`, with the paper's parameters), or a name with a value
for its dial (`random_rotation-90`, `diffusion-500`), or several of these joined by `+`, in the order in which they act.
`diffusion-500=2` is another random draw of the same view: a second negative of the same strength.
`regenerate-0.5` is an image that a diffusion model has made out of the image.
`ladder-100:900:200` asks at more and more noise until the answer differs from the clean one (ladder.py).
To add one, write a class like those in `geometric.py`, and add it to `AUGMENTATIONS`.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np

from seva_ray.augmentations.base import Augmentation, Labelled, PixelAugmentation
from seva_ray.augmentations.blank import Blank
from seva_ray.augmentations.chain import Chain
from seva_ray.augmentations.composed import AutoAugment, Byol, Moco, RandAugment, Simclr
from seva_ray.augmentations.diffusion import Diffusion, DiffusionCosine, DiffusionLinear
from seva_ray.augmentations.geometric import (
    CenterCrop,
    Pad,
    RandFlip,
    RandomAffine,
    RandomCrop,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    SmallCrop,
)
from seva_ray.augmentations.ladder import USAGE, Ladder
from seva_ray.augmentations.photometric import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.errors import ConfigError, suggestion

CLEAN = "clean"
"""The view without augmentation."""

CONTROL_REPEAT = "control-repeat"
"""The clean view, answered a second time."""

CONTROL_BATCH = "control-batch"
"""The clean view, answered in other batches. Greedy answers that differ from those of `clean` are due to the engine's
rounding. About as many unequal pairs of an augmented view are not due to the augmentation."""

CONTROLS = (CONTROL_REPEAT, CONTROL_BATCH)

SAMPLED = "sampled"
"""`sampled-0.7` is the clean view, answered by sampling at temperature 0.7; `sampled-0.7=2` is a second sample."""

MAX_LABEL = 128
"""Largest number of characters in a view's label, which becomes the name of a directory."""

AUGMENTATIONS = {
    kind.name(): kind
    for kind in (
        Pad,
        CenterCrop,
        RandomCrop,
        RandomResizedCrop,
        RandFlip,
        RandomPerspective,
        RandomRotation,
        RandomAffine,
        Grayscale,
        ColorJitter,
        RandomInvert,
        RandomPosterize,
        RandomSolarize,
        RandomEqualize,
        RandomAdjustSharpness,
        RandomAutocontrast,
        GaussianBlur,
        RandAugment,
        AutoAugment,
        Moco,
        Byol,
        Simclr,
        Diffusion,
        SmallCrop,
        Blank,
    )
}
"""All augmentations, by name."""

BEYOND_SEVA = ("small_crop", "blank")
"""Augmentations that are not in SeVa's list. Image preferences and controls use them."""


SCHEDULES = {kind.name(): kind for kind in (DiffusionLinear, DiffusionCosine)}
"""Diffusion noise of other schedules than SeVa's, by name."""


@lru_cache(maxsize=1024)  # it is asked several times for each row
def parse_view(label: str) -> Augmentation | None:
    """The augmentation of a view's label; None for the clean view, its controls and sampled views. Each view has only
    one valid label.

    Raises: ConfigError for a label that is not a view's.
    """
    if label in (CLEAN, *CONTROLS):
        return None
    if len(label) > MAX_LABEL:
        raise ConfigError(f"view {label[:40]!r}...: longer than {MAX_LABEL} characters")
    if temperature_of(label) is not None:
        return None
    if ladder := Ladder.of(label):
        return Diffusion(noise_step=ladder.last)
    if label.partition("-")[0] == Regenerate.name():
        return labelled(label, Regenerate.at(label.partition("-")[2]))
    members: list[Augmentation] = []
    kinds = AUGMENTATIONS | SCHEDULES
    for part in undrawn(label).split("+"):
        name, _, value = part.partition("-")
        if name not in kinds:
            if near := suggestion(name, (*kinds, CLEAN, *CONTROLS)):
                raise ConfigError(f"view {label!r}: there is no {name!r}{near}; jobs/gallery.py shows all views")
            known = ", ".join(kind.usage() for kind in kinds.values())
            plain = ", ".join((CLEAN, *CONTROLS, f"{SAMPLED}-<temperature>"))
            raise ConfigError(
                f"view {label!r}: there is no {name!r}; a view is {plain}, or made of these, joined by +: {known}; "
                f"or it is {USAGE} or {Regenerate.usage()}"
            )
        members.append(labelled(part, kinds[name].at(value)))
    return members[0] if len(members) == 1 else Chain(members=tuple(members))


def labelled(part: str, member: Labelled) -> Any:
    """The augmentation `member` of a label's part. Raises: ConfigError if the part is not its label."""
    if member.label != part:
        raise ConfigError(f"view {part!r}: must be written {member.label}")
    return member


def members_of(augmentation: Augmentation) -> tuple[Augmentation, ...]:
    return augmentation.members if isinstance(augmentation, Chain) else (augmentation,)


def changes_pixels(augmentation: Augmentation) -> bool:
    """Whether it changes the normalised pixels."""
    return any(isinstance(member, PixelAugmentation) for member in members_of(augmentation))


def changes_image(view: str) -> bool:
    """Whether the view's augmentation changes the image itself, before it is resized. Raises: ConfigError."""
    augmentation = parse_view(view)
    members = () if augmentation is None else members_of(augmentation)
    return not all(isinstance(member, PixelAugmentation) for member in members)


def undrawn(label: str) -> str:
    """A view's label without the number of its draw. Raises: ConfigError if that is not a number from 2 to 9999."""
    made_of, equals, draw = label.partition("=")
    if equals and not re.fullmatch(r"[2-9]|[1-9]\d{1,3}", draw):
        raise ConfigError(f"view {label!r}: after = comes the number of the draw, at least 2")
    return made_of


def sampled(temperature: float, draw: int = 1) -> str:
    """The label of the view in which questions about the clean image are answered by sampling."""
    return drawn(f"{SAMPLED}-{np.format_float_positional(temperature, trim='-')}", draw)


def temperature_of(label: str) -> float | None:
    """The temperature at which a view is sampled; None if the decoding decides."""
    made_of = undrawn(label)
    found = re.fullmatch(rf"{SAMPLED}-(\d+(?:\.\d+)?)", made_of)
    return float(found[1]) if found and sampled(float(found[1])) == made_of else None


def drawn(label: str, draw: int) -> str:
    """The view's label for its first, second, ... draw."""
    return label if draw == 1 else f"{label}={draw}"
