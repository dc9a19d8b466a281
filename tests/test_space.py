"""A study's search space: which points there are, and what each does to training."""

from dataclasses import replace

import pytest

from seva_ray.augmentations import parse_view
from seva_ray.core.errors import ConfigError
from seva_ray.core.seeds import generator
from seva_ray.dpo.config import Train
from seva_ray.dpo.policy import Lora
from seva_ray.studies.space import Point, Space, expanded, strength

TRAIN = Train(num_pairs=100, lora=Lora(rank=8, alpha=16))


def test_a_range_of_strengths_has_both_its_ends():
    assert expanded("diffusion-100:900:200") == [f"diffusion-{step}" for step in (100, 300, 500, 700, 900)]
    assert expanded("pad-10:25:10") == ["pad-10", "pad-20"]
    assert expanded("moco") == ["moco"]


@pytest.mark.parametrize("view", ["diffusion-900:100:200", "diffusion-1:2", "diffusion-1:9:0", "diffusion-a:b:c"])
def test_a_range_that_is_none_is_named(view):
    with pytest.raises(ConfigError, match=f"view '{view}'"):
        Space(views=(view,))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"views": ("sepia",)}, "no 'sepia'"),
        ({"views": ("diffusion-900:1100:100",)}, "noise_step 1000"),
        ({"views": ("clean",)}, "must be an augmented one"),
        ({"views": (), "swapped": ()}, "at least one"),
        ({"num_negatives": ()}, "num_negatives"),
        ({"num_pairs": (0,)}, "must be at least 1"),
        ({"views": ("diffusion-0:99999999999:1",)}, "more than 100,000 views"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(values, line):
    with pytest.raises(ConfigError, match=line):
        Space(**values)


def test_a_point_that_cannot_be_trained_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="beta -1"):
        Space(betas=(0.1, -1.0)).grid(TRAIN)


def test_the_grid_is_every_combination_and_empty_axes_stay_at_the_jobs_own_setting():
    space = Space(
        views=("diffusion-100:500:200", "moco"), swapped=("diffusion-500",), betas=(0.1, 0.2), lora_ranks=(4, 8)
    )
    points = space.grid(TRAIN)
    assert len(points) == len(set(points)) == 5 * 2 * 2
    assert {point.learning_rate for point in points} == {TRAIN.learning_rate}
    assert {point.num_pairs for point in points} == {100}


def test_a_point_changes_what_it_says_and_nothing_else_of_training():
    point = Point(
        arm="swapped diffusion-300", num_negatives=2, beta=0.3, learning_rate=1e-5, lora_rank=4, loss="ipo",
        num_pairs=50, prompt_seed=None,
    )  # fmt: skip
    expected = replace(
        TRAIN, beta=0.3, learning_rate=1e-5, lora=Lora(rank=4, alpha=8), loss=replace(TRAIN.loss, name="ipo"),
        num_pairs=50, swap_sides=True, seed=7,
    )  # fmt: skip
    assert point.train(TRAIN, seed=7) == expected
    assert point.views == ["diffusion-300", "diffusion-300=2"]


def test_methods_are_an_axis_and_without_it_a_point_is_as_it_was():
    space = Space(views=("diffusion-300",), methods=("seva", "mdpo", "sft"))
    seva, mdpo, sft = (point.train(TRAIN, seed=0) for point in space.combinations(TRAIN))
    (usual,) = Space(views=("diffusion-300",)).combinations(TRAIN)
    assert "method" not in usual.label
    assert seva == usual.train(TRAIN, seed=0)
    assert mdpo.loss == replace(TRAIN.loss, image_weight=1.0, anchor_weight=1.0, image_view="small_crop")
    assert sft.loss == replace(TRAIN.loss, name="sft")
    with pytest.raises(ConfigError, match="methods blank-image: it has pairs of its own"):
        Space(methods=("blank-image",))
    with pytest.raises(ConfigError, match=r"method sft: sets train.loss.name to sft, so it cannot be ipo too"):
        replace(space, losses=("ipo",)).combinations(TRAIN)


def test_a_larger_random_sample_begins_with_a_smaller_one_and_depends_on_the_seed():
    space = Space(betas=(0.1, 0.2, 0.3))
    some, more = space.sample(TRAIN, 4, seed=0), space.sample(TRAIN, 8, seed=0)
    assert more[:4] == some
    assert len(set(more)) == 8
    assert space.sample(TRAIN, 8, seed=1) != more
    curved = replace(space, curve=(10, 20, 30))
    assert curved.sample(TRAIN, 100, seed=0) == space.sample(TRAIN, 100, seed=0)


def test_another_draw_of_a_view_has_the_same_augmentation_and_other_randomness():
    assert parse_view("diffusion-500=2") == parse_view("diffusion-500")
    first, second = (generator(0, "prompt", view).normal() for view in ("diffusion-500", "diffusion-500=2"))
    assert first != second
    for wrong in ("diffusion-500=1", "diffusion-500=", "diffusion-500=x", "clean=2", "diffusion-500=2=3"):
        with pytest.raises(ConfigError, match="view"):
            parse_view(wrong)


def test_strength_is_the_dial_where_there_is_one():
    assert strength("diffusion-300") == ("diffusion", 300.0)
    assert strength("moco") == ("moco", None)
    assert strength("rand_flip+diffusion-300") == ("rand_flip+diffusion-300", None)
