"""The toy benchmark scores as it says, and the toy source gives prompts without answers."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seva_ray.benchmarks.toy_scenes import ToyBenchmark, mentions
from seva_ray.core.errors import ConfigError
from seva_ray.core.records import PROMPT_SCHEMA, Response, table
from seva_ray.sources.toy_world import ToyWorld
from seva_ray.toy.world import COLOR_NAMES, SHAPES, make_scene, questions, render

BENCHMARK = ToyBenchmark(num_images=30)


def answered(answer):
    """A response to every prompt: `answer` maps a question to its text, or to None for no response."""
    responses = {}
    asked = [question for index in range(30) for question in questions(make_scene(2024, "test", index))]
    for prompt, question in zip(BENCHMARK.prompts(), asked, strict=True):
        assert prompt.question == question.text
        text = answer(question)
        if text is not None:
            responses[prompt.prompt_id] = Response(prompt_id=prompt.prompt_id, text=text, finish_reason="stop")
    return responses


def metrics(responses):
    tally = BENCHMARK.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in BENCHMARK.metrics(sums).items()}


def picture_of(prompt):
    return np.asarray(Image.open(BytesIO(prompt.image_bytes)))


def test_a_perfect_answerer_scores_100():
    scores = metrics(answered(lambda question: question.answer))
    lengths = scores.pop("describe words")
    for name, value in scores.items():
        assert value == (50 if "yes-ratio" in name else 100), name
    assert 8 < lengths < 45


def test_no_response_counts_as_wrong():
    scores = metrics({})
    for name in ("VQA accuracy", "color accuracy", "ocr accuracy", "POPE accuracy", "POPE random accuracy"):
        assert scores[name] == 0
    assert scores["describe recall"] == 0


def test_a_response_with_an_error_counts_as_wrong():
    responses = answered(lambda question: question.answer)
    responses = {key: replace(response, error="image cannot be read") for key, response in responses.items()}
    np.testing.assert_equal(metrics(responses), metrics({}))


def test_always_yes_is_half_right_and_has_full_recall():
    scores = metrics(answered(lambda question: "yes"))
    assert scores["VQA accuracy"] == 0
    for category in ("random", "popular", "adversarial"):
        assert scores[f"POPE {category} accuracy"] == 50
        assert scores[f"POPE {category} recall"] == 100
        assert scores[f"POPE {category} yes-ratio"] == 100


def test_a_wrong_count_lowers_only_the_scores_with_count():
    scores = metrics(answered(lambda question: "four" if question.kind == "count" else question.answer))
    assert scores["count accuracy"] < 60
    assert scores["VQA accuracy"] < 100
    assert scores["VQA accuracy without count"] == 100
    assert scores["POPE accuracy"] == 100


def test_a_description_is_scored_by_the_objects_it_names():
    def two_more(question):
        if question.kind != "describe":
            return question.answer
        return question.answer + " and a red ring at the left , a red ring at the right ."

    scores = metrics(answered(two_more))
    assert scores["describe recall"] == 100
    assert 60 < scores["describe precision"] < 90
    assert mentions("a red ring at the left , a red ring , a green sign") == {("red", "ring")}


def test_what_a_description_names_and_no_scene_has_is_listed_once():
    scene = make_scene(2024, "test", 0)
    here = {(thing.color, thing.shape) for thing in scene.things}
    (absent, *_) = [(color, shape) for color in COLOR_NAMES for shape in SHAPES if (color, shape) not in here]
    thing = scene.things[0]
    text = f"a {thing.color} {thing.shape} and a {' '.join(absent)} and a {' '.join(absent)}"
    responses = answered(lambda question: text if question.kind == "describe" else question.answer)
    named = BENCHMARK.hallucinated(responses)
    assert named[next(iter(named))] == [" ".join(absent)]
    tally = BENCHMARK.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(axis=0), strict=True))
    assert sum(map(len, named.values())) == sums["describe_said"] - sums["describe_said_right"]


def test_metrics_of_bootstrap_replicates_have_their_shape():
    tally = BENCHMARK.tally(answered(lambda question: question.answer))
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=5)
    sums = dict(zip(tally.names, (weights @ tally.counts).T, strict=True))
    assert all(np.shape(value) == (5,) for value in BENCHMARK.metrics(sums).values())


def test_the_tally_has_a_row_per_image_in_the_order_of_the_prompts():
    tally = BENCHMARK.tally({})
    assert tally.counts.shape == (30, len(tally.names))
    assert list(dict.fromkeys(prompt.image_id for prompt in BENCHMARK.prompts())) == list(tally.image_ids)


def test_other_questions_have_another_name():
    others = [
        ToyBenchmark(num_images=31),
        ToyBenchmark(num_images=30, seed=1),
        ToyBenchmark(num_images=30, camera="clean"),
    ]
    assert len({BENCHMARK.name, *(other.name for other in others)}) == 4


def test_the_source_gives_png_files_without_answers_and_with_unique_ids():
    prompts = list(ToyWorld(num_images=4).prompts())
    assert prompts[0].prompt_id == "toy-7-000000-0"
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)
    assert [prompt.image_id for prompt in prompts] == sorted(prompt.image_id for prompt in prompts)
    assert {prompt.source for prompt in prompts} == {"toy"}
    scene = make_scene(7, "unlabelled", 0)
    assert (prompts[0].image_bytes or b"")[:4] == b"\x89PNG"
    picture = picture_of(prompts[0])
    assert picture.shape == (48, 48, 3)
    assert (picture != render(scene)).mean() > 0.5
    assert [prompt.question for prompt in prompts[: len(questions(scene))]] == [q.text for q in questions(scene)]
    assert table(prompts, PROMPT_SCHEMA).num_rows == len(prompts)


def test_a_clean_world_has_the_same_questions_and_other_ids():
    noisy, clean = list(ToyWorld(num_images=2).prompts()), list(ToyWorld(num_images=2, camera="clean").prompts())
    assert [prompt.question for prompt in noisy] == [prompt.question for prompt in clean]
    assert not {prompt.prompt_id for prompt in noisy} & {prompt.prompt_id for prompt in clean}
    assert (picture_of(clean[0]) == render(make_scene(7, "unlabelled", 0))).all()


@pytest.mark.parametrize("wrong", [{"num_images": 0}, {"seed": -1}, {"camera": "infrared"}])
def test_fields_that_cannot_work_are_refused(wrong):
    field = next(iter(wrong))
    with pytest.raises(ConfigError, match=field):
        ToyWorld(**wrong)
    with pytest.raises(ConfigError, match=field):
        ToyBenchmark(**wrong)
