"""The toy world: scenes that depend on their number only, questions whose answers the picture shows, two cameras."""

import numpy as np
import pytest

from seva_ray.core.errors import ConfigError
from seva_ray.sources.toy_world import ToyWorld
from seva_ray.toy.world import (
    CLEAN,
    COLORS,
    DEPLOYMENT,
    EXIST_CATEGORIES,
    FAVOURITE,
    NUMBERS,
    PLACES,
    Camera,
    Scene,
    Sign,
    Thing,
    make_scene,
    questions,
    render,
    words,
)


def scenes(split, count, seed=7):
    return [make_scene(seed, split, index) for index in range(count)]


def test_a_scene_does_not_depend_on_how_many_are_made():
    few, many = list(ToyWorld(num_images=3).prompts()), list(ToyWorld(num_images=9).prompts())
    assert many[: len(few)] == few
    assert render(make_scene(7, "test", 5)).tolist() == render(scenes("test", 9)[5]).tolist()


def test_the_splits_and_the_seeds_have_other_scenes():
    drawn = [
        [(scene.things, scene.sign) for scene in scenes(split, 50, seed)]
        for split in ("sft", "unlabelled", "test")
        for seed in (7, 8)
    ]
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            assert sum(a == b for a, b in zip(first, second, strict=True)) <= 2


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="split"):
        make_scene(7, "train", 0)


def test_the_picture_shows_every_thing_in_its_cell_and_colour():
    for scene in scenes("test", 60):
        picture = render(scene).astype(int)
        for thing in scene.things:
            row, column = divmod(thing.cell, 3)
            cell = picture[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].reshape(-1, 3)
            coloured = np.median(cell[np.ptp(cell, axis=1) > 40], axis=0)
            distances = {name: np.abs(coloured - value).sum() for name, value in COLORS.items()}
            nearest = sorted(distances, key=distances.__getitem__)
            assert thing.color in nearest[:1] or distances[thing.color] < distances[nearest[0]] + 25, (thing, coloured)
        empty = set(range(9)) - {thing.cell for thing in scene.things}
        for cell_number in empty:
            row, column = divmod(cell_number, 3)
            cell = picture[row * 16 + 2 : row * 16 + 14, column * 16 + 2 : column * 16 + 14]
            assert (np.ptp(cell, axis=2) < 40).all()  # no colour: background or sign


def test_the_picture_shows_the_sign_in_its_row_and_the_word_changes_it():
    scene = Scene(seed=1, split="test", index=0, things=(Thing("ring", "red", 0),), sign=Sign("stop", 2))
    other = Scene(seed=1, split="test", index=0, things=(Thing("ring", "red", 0),), sign=Sign("lake", 2))
    picture = render(scene)
    assert (picture[32:48] < 60).all(2).sum() > 200
    assert (picture[:32] < 60).all(2).sum() == 0
    changed = (picture != render(other)).any(2)
    assert changed[32:].any()
    assert not changed[:32].any()


@pytest.mark.parametrize("split", ["sft", "unlabelled", "test"])
def test_every_answer_follows_from_the_scene(split):
    for scene in scenes(split, 120):
        present = {(thing.shape, thing.color): thing for thing in scene.things}
        assert len(present) == len(scene.things)
        for question in questions(scene):
            asked = question.text.split()
            match question.kind:
                case "color":
                    assert [thing.color for thing in scene.things if thing.shape == asked[4]] == [question.answer]
                case "shape":
                    assert [thing.shape for thing in scene.things if thing.color == asked[4]] == [question.answer]
                case "where":
                    assert question.answer == PLACES[present[asked[4], asked[3]].cell]
                case "count":
                    assert NUMBERS.index(question.answer) == len(scene.things)
                case "exist":
                    assert question.answer == ("yes" if (asked[4], asked[3]) in present else "no")
                case "ocr":
                    assert scene.sign is not None
                    assert question.answer == scene.sign.word
                case "describe":
                    for thing in scene.things:
                        assert f"a {thing.color} {thing.shape} at the {thing.place} " in question.answer
                    assert (scene.sign is not None) == ("sign" in question.answer)


def test_every_category_has_as_many_positive_as_negative_questions_of_its_own():
    asked = [question for scene in scenes("test", 90) for question in questions(scene) if question.kind == "exist"]
    for category in EXIST_CATEGORIES:
        answers = [question.answer for question in asked if question.category == category]
        assert answers.count("yes") == answers.count("no") == 30


def test_negatives_are_what_their_category_says():
    tempting = 0
    for scene in scenes("test", 300):
        shapes = {thing.shape for thing in scene.things}
        for question in questions(scene):
            if question.kind != "exist" or question.answer == "yes":
                continue
            color, shape = question.text.split()[3:5]
            if question.category == "popular":
                assert FAVOURITE[shape] == color
            if question.category == "adversarial":
                assert shape in shapes or color in {thing.color for thing in scene.things}
                tempting += FAVOURITE[shape] == color
    assert tempting > 80


def test_only_the_training_split_is_biased():
    def favourites(split):
        things = [thing for scene in scenes(split, 400) for thing in scene.things]
        return np.mean([FAVOURITE[thing.shape] == thing.color for thing in things])

    assert favourites("sft") > 0.5
    assert favourites("unlabelled") == pytest.approx(1 / 6, abs=0.04)
    assert favourites("test") == pytest.approx(1 / 6, abs=0.04)


def test_every_word_is_in_the_vocabulary():
    for scene in scenes("sft", 200):
        for question in questions(scene):
            assert set(question.text.split()) | set(question.answer.split()) <= set(words())


def test_the_deployment_camera_writes_8_bit_pictures_with_the_noise_it_promises():
    made = scenes("test", 60)
    clean = np.stack([render(scene, CLEAN) for scene in made]).astype(float)
    seen = np.stack([render(scene, DEPLOYMENT) for scene in made])
    assert seen.dtype == np.uint8
    assert seen[3].tolist() == render(made[3], DEPLOYMENT).tolist()
    far_from_clipping = (clean > 40) & (clean < 150)
    noise = (seen - (127.5 + DEPLOYMENT.contrast * (clean - 127.5)))[far_from_clipping]
    assert noise.mean() == pytest.approx(0, abs=1)
    assert noise.std() == pytest.approx(DEPLOYMENT.grain, rel=0.03)


def test_a_camera_that_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="contrast"):
        Camera(contrast=0)
    with pytest.raises(ConfigError, match="grain"):
        Camera(grain=-1)
