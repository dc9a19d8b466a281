import json
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.amber import AmberDiscriminative, AmberGenerative
from seva_ray.benchmarks.base import Benchmark
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response

RELATION = {
    "person": ["people", "man"],
    "man": ["person"],
    "sky": [],
    "ship": ["boat"],
    "dog": [],
    "cloud": [],
    "light": ["lamp"],
}
ANNOTATIONS: list[dict[str, Any]] = [
    {"id": 1, "type": "generative", "truth": ["person", "man", "sky", "ship"], "hallu": ["dog", "cloud"]},
    {"id": 2, "type": "generative", "truth": ["sky"], "hallu": ["dog"]},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 4, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 5, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 6, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 7, "type": "relation", "truth": "no"},
    {"id": 8, "type": "discriminative-relation", "truth": "yes"},
]


def query(number: int, image: int, text: str = "Is it so?") -> dict[str, Any]:
    return {"id": number, "image": f"AMBER_{image}.jpg", "query": text}


GENERATIVE = [query(1, 1, "Describe this image."), query(2, 2, "Describe this image.")]
DISCRIMINATIVE = [query(3, 1), query(4, 2), query(5, 1), query(6, 1), query(7, 1), query(8, 2)]


def write(folder: Path, **changed: Any) -> dict[str, Any]:
    files = {
        "relation.json": changed.get("relation", RELATION),
        "annotations.json": changed.get("annotations", ANNOTATIONS),
        "query/query_generative.json": changed.get("generative", GENERATIVE),
        "query/query_discriminative.json": changed.get("discriminative", DISCRIMINATIVE),
    }
    (folder / "query").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "safe_words.txt").write_text("light\nindividual")
    return {"path": str(folder), "image_root": "images"}


def metrics(benchmark: Benchmark, **texts: str) -> dict[str, float]:
    responses = {key[1:]: Response(prompt_id=key[1:], text=text, finish_reason="stop") for key, text in texts.items()}
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in benchmark.metrics(sums).items()}


def test_descriptions_are_asked_for_as_published_and_short_answers_as_llava_does(tmp_path):
    files = write(tmp_path)
    generative, discriminative = AmberGenerative(**files), AmberDiscriminative(**files)
    assert [prompt.question for prompt in generative.prompts()] == ["Describe this image."] * 2
    prompts = list(discriminative.prompts())
    assert [prompt.prompt_id for prompt in prompts] == ["3", "5", "6", "7", "4", "8"], "image by image"
    assert prompts[0].question == "Is it so?\nAnswer the question using a single word or phrase."
    assert [generative.name, discriminative.name] == ["amber-generative-exact-words", "amber-discriminative-llava"]


def test_descriptions_are_scored_as_worked_out_by_hand(tmp_path):
    # Image 1: people and the sky are there, a boat is a ship, a light is ignored, two dogs are not there; a tree is no
    # word of the list. 6 nouns, 2 wrong; 3 of 4 objects covered; 1 of 2 temptations taken. Image 2: the sky, 1 of 1.
    texts = {"i1": "People, a boat, the sky, a light, a dog by a tree, dogs", "i2": "The sky."}
    assert metrics(AmberGenerative(**write(tmp_path)), **texts) == {
        "AMBER CHAIR, low is good": pytest.approx(100 * 2 / 7),
        "AMBER Cover": pytest.approx(100 * 4 / 5),
        "AMBER Hal, low is good": 50,
        "AMBER Cog, low is good": pytest.approx(100 / 3),
    }


def test_a_word_covers_the_first_object_that_it_is_associated_with(tmp_path):
    # "man" is associated with the person, who comes first; so "men" alone cover one object, the person, as in AMBER's
    # script, and "person" is associated with the man.
    benchmark = AmberGenerative(**write(tmp_path))
    assert metrics(benchmark, i1="Men", i2="The sky")["AMBER Cover"] == pytest.approx(100 * 2 / 5)
    assert metrics(benchmark, i1="Men, a person", i2="The sky")["AMBER Cover"] == pytest.approx(100 * 3 / 5)


def test_of_two_objects_of_one_name_only_the_first_can_be_covered(tmp_path):
    annotations = [{"id": 1, "type": "generative", "truth": ["ship", "ship"], "hallu": ["dog"]}]
    benchmark = AmberGenerative(**write(tmp_path, annotations=annotations, generative=GENERATIVE[:1]))
    assert metrics(benchmark, i1="A boat, a ship")["AMBER Cover"] == 50


def test_no_description_counts_as_one_with_a_noun_that_is_not_there(tmp_path):
    assert metrics(AmberGenerative(**write(tmp_path)), i1="The sky") == {
        "AMBER CHAIR, low is good": 50,
        "AMBER Cover": 20,
        "AMBER Hal, low is good": 50,
        "AMBER Cog, low is good": 0,
    }


def test_answers_are_scored_with_no_as_the_positive_answer(tmp_path):
    # Right: 3 (yes), 4 (no), 5 (no). Wrong: 6 says yes, 7 says neither, 8 says no though it is so.
    # No was said 3 times, rightly 2 times; it was right 4 times.
    texts = {"i3": "yes.", "i4": "No, there are two", "i5": "No", "i6": "Yes", "i7": "Perhaps no", "i8": "no"}
    scores = metrics(AmberDiscriminative(**write(tmp_path)), **texts)
    assert scores["AMBER accuracy"] == 50
    assert scores["AMBER precision"] == pytest.approx(200 / 3)
    assert scores["AMBER recall"] == 50
    assert scores["AMBER F1"] == pytest.approx(100 * 2 * 2 / (3 + 4))
    assert scores["AMBER existence accuracy"] == 50
    assert scores["AMBER attribute F1"] == 100
    assert scores["AMBER relation recall"] == 0


def test_outcomes_agree_with_accuracy(tmp_path):
    benchmark = AmberDiscriminative(**write(tmp_path))
    texts = {"3": "yes.", "4": "No, there are two", "5": "No", "6": "Yes", "7": "Perhaps no"}
    correct = benchmark.correct({key: Response(prompt_id=key, text=text) for key, text in texts.items()})
    assert {key for key, right in correct.items() if right} == {"3", "4", "5"}
    assert correct.keys() == {"3", "4", "5", "6", "7", "8"}


def test_nouns_that_are_not_there_are_named_once_and_ignored_words_never(tmp_path):
    benchmark = AmberGenerative(**write(tmp_path))
    texts = {"1": "People, a boat, a light, a dog by a tree, dogs and clouds", "2": "The sky."}
    responses = {key: Response(prompt_id=key, text=text) for key, text in texts.items()}
    assert benchmark.hallucinated(responses) == {"1": ["cloud", "dog"], "2": []}
    assert benchmark.hallucinated({"1": Response(prompt_id="1", text="dogs", error="engine died")}) == {}


def test_no_answer_is_wrong_whatever_the_label(tmp_path):
    scores = metrics(AmberDiscriminative(**write(tmp_path)))
    assert scores["AMBER accuracy"] == scores["AMBER recall"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"generative": [query(9, 1)]}, "query/query_generative.json, row 1, id: 9 is not in annotations.json"),
        ({"generative": [query(3, 1)]}, "annotations.json, row 3, type: expected generative, got 'discrim"),
        ({"generative": [query(1, 1)] * 2}, "query/query_generative.json, row 2, id: 1 was already used in this file"),
        ({"generative": []}, "query/query_generative.json: has no questions"),
        ({"generative": {}}, "query/query_generative.json: expected a list, got {}"),
        (
            {"generative": [{"id": 1, "image": "../1.jpg"}]},
            "query/query_generative.json, row 1, image: expected a path",
        ),
        ({"relation": {"sky": []}}, "annotations.json, row 1, truth: 'person' is not in relation.json"),
        ({"relation": {"sky": 5}}, "relation.json: expected lists of words"),
        ({"annotations": [{**ANNOTATIONS[0], "hallu": None}]}, "annotations.json, row 1, hallu: expected a list"),
    ],
)
def test_wrong_generative_files_are_one_line(tmp_path, changed, message):
    with pytest.raises(InputError) as caught:
        AmberGenerative(**write(tmp_path, **{"generative": [query(1, 1)]} | changed))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_wrong_discriminative_files_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"annotations\.json, row 1, truth: expected yes or no, got 'maybe'"):
        AmberDiscriminative(
            **write(
                tmp_path,
                annotations=[{"id": 3, "type": "relation", "truth": "maybe"}],
                discriminative=DISCRIMINATIVE[:1],
            )
        )
    with pytest.raises(InputError, match=r"annotations\.json, row 1, type: expected discriminative-hallucination, "):
        AmberDiscriminative(**write(tmp_path, discriminative=[query(1, 1)]))
