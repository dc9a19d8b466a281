"""The methods, by the names that the field gives them: which pairs are made, and what training minimises on them.

A method is a set of values for options that also stand alone, so `--method anchor` is `--train.loss.anchor-weight 1`.
docs/METHODS.md has the formulas and how to add a method. The terms are in objective.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from seva_ray.core.errors import ConfigError
from seva_ray.dpo.config import Loss, Train
from seva_ray.pairs.exchange import Rejected

MethodName = Literal[
    "seva", "anchor", "seva+image", "mdpo", "symmpo", "contrast",
    "swapped", "other-prompt", "blank-image", "sft", "contrast-sft", "contrast-turned",
]  # fmt: skip

ShortAnswers = Literal["view", "contrast", "turned"]
"""The pairs of questions that the model answers with a short answer, such as yes: as all others; with chosen answers
that were found by contrast (VCD, arXiv 2311.16922); or, as a control, with the model's own answer turned round."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method, or a control that a method must beat."""

    about: str
    """What it does, in one sentence."""
    loss: Loss = field(default_factory=Loss)
    """The loss that training minimises. Values that are the default of Loss are left to the user."""
    views: tuple[str, ...] = ()
    """The rejected views. Empty: those that the user chose."""
    rejected: Rejected = "view"
    """The source of the rejected answers."""
    swap_sides: bool = False
    """Whether chosen and rejected are exchanged in half of the pairs."""
    short_answers: ShortAnswers = "view"
    """How pairs of short answers are made."""
    is_control: bool = False


METHODS: Mapping[str, Method] = {
    "seva": Method(about="SeVa: DPO on the answers to the clean and to the augmented image."),
    "anchor": Method(
        about="SeVa, and an anchor that keeps the reward of the chosen answer above 0.", loss=Loss(anchor_weight=1.0)
    ),
    "seva+image": Method(
        about="SeVa, and the chosen answer must be likelier on the clean image than on the same augmented one.",
        loss=Loss(image_weight=1.0),
    ),
    "mdpo": Method(
        about="mDPO on SeVa's pairs: the image preference against a small crop, and the anchor.",
        loss=Loss(image_weight=1.0, anchor_weight=1.0, image_view="small_crop"),
    ),
    "symmpo": Method(
        about="SymMPO on SeVa's pairs: each of the two images prefers its own answer, by equal margins; two anchors.",
        loss=Loss(symmetric_weight=0.5, anchor_weight=1.0),
    ),
    "contrast": Method(
        about="SeVa and the anchor; the chosen answer to questions such as yes/no ones is found by contrast.",
        loss=Loss(anchor_weight=1.0),
        short_answers="contrast",
    ),
    "swapped": Method(
        about="Control: SeVa with chosen and rejected exchanged in a random half of the pairs.",
        swap_sides=True,
        is_control=True,
    ),
    "other-prompt": Method(
        about="Control: SeVa with another prompt's answer as the rejected one.",
        rejected="other_prompt",
        is_control=True,
    ),
    "blank-image": Method(
        about="Control: SeVa with the answer to a blank image, the language prior, as the rejected one.",
        views=("blank",),
        is_control=True,
    ),
    "sft": Method(
        about="Control: fine-tuning on the chosen answers of SeVa's pairs.",
        loss=Loss(name="sft"),
        is_control=True,
    ),
    "contrast-sft": Method(
        about="Control: fine-tuning on the chosen answers of the pairs of contrast.",
        loss=Loss(name="sft"),
        short_answers="contrast",
        is_control=True,
    ),
    "contrast-turned": Method(
        about="Control: contrast, but as many yes/no answers are turned round at random.",
        loss=Loss(anchor_weight=1.0),
        short_answers="turned",
        is_control=True,
    ),
}


def trained_by(name: str, train: Train) -> Train:
    """The training with the values that a method sets.

    Raises: ConfigError if there is no such method, or if the user has set what it sets to another value.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name}: must be one of {', '.join(METHODS)}")
    method, usual = METHODS[name], Loss()
    values = {item.name: getattr(method.loss, item.name) for item in fields(Loss)}
    sets = {key: value for key, value in values.items() if value != getattr(usual, key)}
    for key, value in sets.items():
        given = getattr(train.loss, key)
        if given not in (getattr(usual, key), value):
            raise ConfigError(f"method {name}: sets train.loss.{key} to {value}, so it cannot be {given} too")
    return replace(train, loss=replace(train.loss, **sets), swap_sides=train.swap_sides or method.swap_sides)
