"""How regenerated scenes are measured: scenes are read back from their pictures, and right answers from scenes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.read_scene import read_scene, right_answer
from bench.regenerate import changed_shares
from seva_ray.toy.world import CAMERAS, NUMBERS, make_scene, questions, render

SCENES = [make_scene(0, "test", index) for index in range(40)]


@pytest.mark.parametrize("camera", CAMERAS)
def test_scenes_are_read_back_from_their_pictures(camera: str):
    found = [read_scene(render(scene, CAMERAS[camera]), CAMERAS[camera]) for scene in SCENES]
    assert [(scene.things, scene.sign) for scene in found] == [(scene.things, scene.sign) for scene in SCENES]


def test_an_empty_picture_has_nothing():
    scene = read_scene(np.full((48, 48, 3), 225, np.uint8))
    assert not scene.things
    assert scene.sign is None


def test_the_right_answers_are_those_of_the_world_and_change_with_the_scene():
    for scene in SCENES:
        assert [right_answer(question, scene) for question in questions(scene)] == [
            question.answer for question in questions(scene)
        ]
        fewer = replace(scene, things=scene.things[1:])
        count = next(question for question in questions(scene) if question.kind == "count")
        assert right_answer(count, fewer) == NUMBERS[len(scene.things) - 1]


def test_shares_count_the_questions_of_each_kind():
    swapped = [Image.fromarray(render(scene)) for scene in [*SCENES[1:], SCENES[0]]]
    same = [Image.fromarray(render(scene)) for scene in SCENES]
    assert changed_shares(SCENES, same, "clean")["all"] == 0
    shares = changed_shares(SCENES, swapped, "clean")
    assert shares["describe"] == 1
    assert 0.3 < shares["exist"] < 0.7
