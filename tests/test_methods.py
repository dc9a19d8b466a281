"""Methods by name: the settings that each of them stands for, and what does not go together with it."""

from typing import get_args

import pytest
import tyro

import full
from presets import TOY_TRAIN, settings_of
from seva_ray.augmentations import parse_view
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.dpo.config import Loss, Train
from seva_ray.dpo.methods import METHODS, MethodName
from seva_ray.stages.pair import Pair

VIEWS = ("diffusion-300",)


def test_every_name_has_its_method_and_the_first_changes_nothing():
    assert list(METHODS) == list(get_args(MethodName))
    assert settings_of("seva", TOY_TRAIN, Pair(), VIEWS) == (TOY_TRAIN, Pair(), VIEWS)


def test_each_method_differs_from_seva_in_what_it_says_and_in_nothing_else():
    changed = {}
    for name in METHODS:
        train, pair, views = settings_of(name, TOY_TRAIN, Pair(), VIEWS)  # type: ignore[arg-type]
        before, after = identity(TOY_TRAIN), identity(train)
        found = {key: after[key] for key in after if key != "loss" and after[key] != before[key]}
        found |= {key: value for key, value in after["loss"].items() if value != before["loss"].get(key)}
        found |= {key: value for key, value in identity(pair).items() if value != identity(Pair()).get(key)}
        changed[name] = found | ({"views": views} if views != VIEWS else {})
    assert changed == {
        "seva": {},
        "anchor": {"anchor_weight": 1.0},
        "seva+image": {"image_weight": 1.0},
        "mdpo": {"image_weight": 1.0, "anchor_weight": 1.0, "image_view": "small_crop"},
        "symmpo": {"symmetric_weight": 0.5, "anchor_weight": 1.0},
        "contrast": {"anchor_weight": 1.0},
        "swapped": {"swap_sides": True},
        "other-prompt": {"rejected": "other_prompt"},
        "blank-image": {"views": ("blank",)},
        "sft": {"name": "sft"},
        "contrast-sft": {"name": "sft"},
        "contrast-turned": {"anchor_weight": 1.0},
    }
    pairs = {name: method.short_answers for name, method in METHODS.items() if method.short_answers != "view"}
    assert pairs == {"contrast": "contrast", "contrast-sft": "contrast", "contrast-turned": "turned"}


def test_pairs_of_another_kind_have_a_name_of_their_own_unless_the_user_gives_one():
    assert settings_of("other-prompt", TOY_TRAIN, Pair(), VIEWS)[1].name == "other-prompt"
    assert settings_of("other-prompt", TOY_TRAIN, Pair(name="mine"), VIEWS)[1].name == "mine"
    assert settings_of("mdpo", TOY_TRAIN, Pair(), VIEWS)[1] == Pair()


def test_every_view_of_a_method_is_an_augmented_one():
    for method in METHODS.values():
        for view in (*method.views, *([method.loss.image_view] if method.loss.image_view else [])):
            assert parse_view(view) is not None


@pytest.mark.parametrize("view", ["clean", "regenerate-0.5"])
def test_image_terms_need_a_view_that_training_can_show(view: str):
    with pytest.raises(ConfigError, match=f"view {view}: training cannot show it"):
        settings_of("seva+image", TOY_TRAIN, Pair(), (view,))
    settings_of("mdpo", TOY_TRAIN, Pair(), (view,))
    settings_of("seva+image", TOY_TRAIN, Pair(), ("ladder-100:900:200",))
    for shown in (view, "ladder-100:900:200"):
        with pytest.raises(ConfigError, match=f"image_view {shown}: must be an augmented view"):
            Loss(image_weight=1.0, image_view=shown)


def test_a_method_is_named_on_the_command_line_and_keeps_the_users_other_settings():
    words = ["--method", "seva+image", "--train.beta", "0.2", "--train.loss.name", "ipo"]
    config = full.with_method(tyro.cli(full.Full, default=full.PRESETS["toy"], args=words))
    assert config.train.loss == Loss(name="ipo", image_weight=1.0)
    assert config.train.beta == 0.2


@pytest.mark.parametrize(
    ("name", "train", "line"),
    [
        ("dpo", Train(), "method dpo: must be one of seva, anchor, seva"),
        (
            "mdpo",
            Train(loss=Loss(image_weight=0.5)),
            "method mdpo: sets train.loss.image_weight to 1.0, so it cannot be 0.5 too",
        ),
        ("sft", Train(loss=Loss(name="ipo")), "method sft: sets train.loss.name to sft, so it cannot be ipo too"),
    ],
)
def test_settings_that_contradict_a_method_are_named(name: MethodName, train: Train, line: str):
    with pytest.raises(ConfigError, match=line):
        settings_of(name, train, Pair(), VIEWS)
