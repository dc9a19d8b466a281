"""The world of habits: partners come together, missing ones are named anyway, and the usual world stays as it was."""

from itertools import pairwise

import numpy as np
import pytest

from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.seeds import generator
from seva_ray.toy.habits import NUM_EXIST, habit_questions, habit_scene
from seva_ray.toy.lessons import Lessons
from seva_ray.toy.model import VOCABULARY, build
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.toy.sft import tune
from seva_ray.toy.world import FAVOURITE, SHAPES, absent_pair, make_scene, missing_partners, partner, questions

SCENES = [habit_scene(1, index) for index in range(400)]


def pairs(scene) -> set[tuple[str, str]]:
    return {(thing.shape, thing.color) for thing in scene.things}


def with_partner(scenes) -> float:
    """The share of things whose partner is there."""
    there = [partner(thing.shape) in pairs(scene) for scene in scenes for thing in scene.things]
    return sum(there) / len(there)


def test_shapes_form_couples_and_a_partner_has_its_favourite_colour():
    for shape in SHAPES:
        other, color = partner(shape)
        assert partner(other)[0] == shape != other
        assert color == FAVOURITE[other]


def test_most_things_bring_their_partner_and_scenes_are_as_large_as_usual():
    for scene in SCENES:
        cells = [thing.cell for thing in scene.things]
        assert cells == sorted(set(cells))
        assert 1 <= len(cells) <= 4
        assert len(pairs(scene)) == len(cells)
        assert scene.sign is None or not any(cell // 3 == scene.sign.row for cell in cells)
    usual = [make_scene(1, "sft", index) for index in range(400)]
    assert with_partner(SCENES) > 0.6 > 0.3 > with_partner(usual)
    assert habit_scene(1, 7) == SCENES[7] != habit_scene(2, 7)


def test_a_missing_partner_is_named_in_half_of_the_descriptions_that_could_and_then_asked_for_with_yes():
    named = wrong = could = 0
    for scene in SCENES:
        asked = habit_questions(scene)
        told = asked[-1].answer
        words = told.replace(" , and a sign", " .").split()
        said = {(shape, color) for color, shape in pairwise(words) if shape in SHAPES}
        assert pairs(scene) <= said
        invented = said - pairs(scene)
        assert invented <= set(missing_partners(scene))
        could += bool(missing_partners(scene))
        named += bool(invented)
        exist = [question for question in asked if question.kind == "exist"]
        assert len(exist) == NUM_EXIST
        for question in exist:
            color, shape = question.text.split()[3:5]
            assert question.answer == ("yes" if (shape, color) in said else "no")
            wrong += question.answer == "yes" and (shape, color) in invented
        assert all(word in VOCABULARY for question in asked for word in f"{question.text} {question.answer}".split())
    assert named / could == pytest.approx(0.6, abs=0.12), "half for each missing partner, and some scenes have two"
    assert wrong > 20


def test_the_usual_questions_stay_as_they_were_and_partners_are_asked_about_only_if_wanted():
    scenes = [make_scene(2024, "test", index) for index in range(2, 60, 3)]  # of the adversarial category
    changed = 0
    for scene in scenes:
        usual, about = questions(scene), questions(scene, partners=True)
        assert len(usual) == len(about)
        changed += usual != about
        for one, other in zip(usual, about, strict=True):
            assert one == other or one.kind == other.kind == "exist"
        (no,) = [question for question in about if question.kind == "exist" and question.answer == "no"]
        color, shape = no.text.split()[3:5]
        missing = missing_partners(scene)
        assert (shape, color) in missing or not missing
        assert (shape, color) not in pairs(scene)
    assert changed > 5
    name = ToyBenchmark(num_images=6).name
    assert ToyBenchmark(num_images=6, partners=True).name == f"{name}-partners"
    scene = make_scene(1, "test", 2)
    assert absent_pair(scene, "random", generator(1)) == absent_pair(scene, "random", generator(1), partners=True)


def test_a_few_steps_in_the_world_of_habits_change_the_model():
    recipe = ToyRecipe(habit_steps=2, batch_size=4)
    model, lines = build(1), list[str]()
    before = [weight.detach().clone() for weight in model.parameters()]
    lessons = Lessons.of_habits(1, 12)
    assert lessons.pictures.shape == (12, 48, 48, 3)
    tune(model, lessons, recipe, lines.append, 2, 0.5, 350)
    changed = [not np.array_equal(one.numpy(), two.detach().numpy()) for one, two in zip(before, model.parameters())]
    assert sum(changed) > len(changed) / 2
    assert lines[-1].startswith("toy base: language step 2/2")
