import json
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks import Benchmarks
from seva_ray.benchmarks.chair import Chair, Synonyms, read_synonyms
from seva_ray.benchmarks.nouns import singular
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import Response

SYNONYMS = """person, man, woman, baby, rider
bird, duck
train, locomotive
airplane, jet
tie, bow, bow tie
hot dog
dog, puppy
wine glass
chair, seat
toilet
motorcycle,  motor bike
knife
skis, ski
"""
NAMES = {1: "dog", 2: "person", 3: "toilet", 4: "motorcycle"}


def write(folder: Path, **options: Any) -> Chair:
    """Image 7 has an outlined dog and a captioned man, image 8 a captioned bird, image 9 an outlined toilet."""
    instances: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 8, 9)],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
        "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 9, "category_id": 3}],
    }
    captions = [(7, "A man walks his puppy."), (7, "Two dogs"), (8, "A baby bird sings."), (9, "White.")]
    (folder / "captions_val2014.json").write_text(
        json.dumps({"annotations": [{"image_id": image, "caption": text} for image, text in captions]})
    )
    (folder / "instances_val2014.json").write_text(json.dumps(instances | options.pop("instances", {})))
    (folder / "synonyms.txt").write_text(options.pop("synonyms", SYNONYMS))
    paths = {"path": str(folder), "image_root": "images", "synonyms_path": str(folder / "synonyms.txt")}
    return Chair(**{"num_images": 3} | paths | options)


def metrics(benchmark: Chair, **texts: str) -> dict[str, float]:
    responses = {
        f"{key[1:]}.jpg": Response(prompt_id=f"{key[1:]}.jpg", text=text, finish_reason="stop")
        for key, text in texts.items()
    }
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in benchmark.metrics(sums).items()}


def test_the_objects_of_an_image_are_those_outlined_and_those_that_a_caption_names(tmp_path):
    objects = {image.prompt.image_path: set(image.objects) for image in write(tmp_path).images}
    assert objects == {"7.jpg": {"dog", "person"}, "8.jpg": {"bird"}, "9.jpg": {"toilet"}}


def test_scores_are_those_worked_out_by_hand(tmp_path):
    # 7: two dogs and a knife (wrong): 3 mentions. 8: nothing. 9: a toilet, right, its seat is not a chair; and a duck,
    # wrong. So 2 of 3 descriptions are wrong, 2 of 5 mentions; of 4 objects, the dog and the toilet are found.
    texts = {"i7": "A dog, a puppy and knives.", "i8": "Nothing.", "i9": "A toilet with its seat up, and a duck"}
    assert metrics(write(tmp_path), **texts) == {
        "CHAIRs, low is good": pytest.approx(200 / 3),
        "CHAIRi, low is good": pytest.approx(40),
        "CHAIR recall": pytest.approx(50),
        "CHAIR words": pytest.approx((6 + 1 + 9) / 3),
    }


def test_objects_that_are_named_and_not_there_are_listed_once(tmp_path):
    texts = {"7.jpg": "A dog, a puppy, knives and a knife.", "8.jpg": "A bird."}
    responses = {key: Response(prompt_id=key, text=text, finish_reason="stop") for key, text in texts.items()}
    assert write(tmp_path).hallucinated(responses) == {"7.jpg": ["knife"], "8.jpg": []}


def test_no_answer_is_one_description_with_one_object_that_is_not_there(tmp_path):
    texts = {"i7": "A dog and a man.", "i8": "A bird."}
    assert metrics(write(tmp_path), **texts) == {
        "CHAIRs, low is good": pytest.approx(100 / 3),
        "CHAIRi, low is good": pytest.approx(25),
        "CHAIR recall": pytest.approx(75),
        "CHAIR words": pytest.approx(7 / 3),
    }


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A hot dog near two dogs.", ["hot dog", "dog"]),
        ("A baby bird, a baby.", ["bird", "person"]),  # A baby bird is not a person.
        ("A passenger train on the train tracks", ["train"]),  # Tracks are not a train.
        ("A passenger jet", ["airplane"]),
        ("A man's bow tie", ["person", "tie"]),
        ("Wine glasses, motor bikes", ["wine glass", "motorcycle"]),
        ("The toilet seat; a seat", ["toilet"]),  # In a text with a toilet no seat is a chair.
        ("A seat", ["chair"]),
        ("SKIS and a ski", ["skis", "skis"]),
        ("doghouse", []),
        ("", []),
    ],
)
def test_words_are_found_by_the_published_tools_rules(tmp_path, text, objects):
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    assert read_synonyms(str(tmp_path / "synonyms.txt")).mentions(text) == objects


def test_the_published_tools_own_words_are_a_protocol_with_a_name_of_its_own(tmp_path):
    texts = {"i7": "A motor bike and a wine glass.", "i8": "A bird/dog.", "i9": "A toilet."}
    original = write(tmp_path, protocol="chair-original")
    assert (original.name, original.protocol) == ("chair-original-3-0", "chair-original")
    # The second space before "motor bike" makes it unknown to the tool, and a slash does not separate its words.
    assert metrics(original, **texts)["CHAIRi, low is good"] == pytest.approx(100 / 2)
    assert metrics(write(tmp_path), **texts)["CHAIRi, low is good"] == pytest.approx(100 * 3 / 5)
    with pytest.raises(ConfigError, match="protocol 'original': must be exact-words or chair-original"):
        write(tmp_path, protocol="original")
    (tmp_path / "images").mkdir()
    files = {"chair": str(tmp_path), "chair_images": str(tmp_path / "images"), "chair_size": 3}
    named = {"chair_synonyms": str(tmp_path / "synonyms.txt"), "chair_protocol": "chair-original"}
    (chosen,) = Benchmarks(**files, **named).chosen()  # type: ignore[arg-type]
    assert chosen.name == original.name


def test_a_pair_that_is_in_no_synonym_list_stays_out():
    assert Synonyms({"plate": "plate"}).mentions("home plate, plate") == ["plate"]


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("puppies", "puppy"),
        ("knives", "knife"),
        ("wolves", "wolf"),
        ("buses", "bus"),
        ("women", "woman"),
        ("firemen", "fireman"),
        ("mice", "mouse"),
        ("bus", "bus"),
        ("skis", "skis"),  # The plural is known, and its singular too.
        ("tables", "tables"),  # Neither spelling is known.
    ],
)
def test_a_singular_is_one_that_is_known(word, one):
    assert singular(word, {"puppy", "knife", "wolf", "bus", "woman", "fireman", "mouse", "ski", "skis"}) == one


def test_a_smaller_sample_is_part_of_a_larger_one_and_another_seed_draws_others(tmp_path):
    def drawn(**options: Any) -> list[str]:
        return [prompt.prompt_id for prompt in write(tmp_path, **options).prompts()]

    assert drawn(num_images=2) == drawn()[:2]
    assert len({tuple(drawn(seed=seed)) for seed in range(5)}) > 1
    assert write(tmp_path, num_images=2, seed=3).name == "chair-exact-words-2-3"


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ({"categories": [{"id": 1, "name": "kite"}]}, "category 1, name: 'kite' is not in"),
        ({"annotations": [{"image_id": 7, "category_id": 5}]}, "annotation 1, category_id: 5 is not among"),
        ({"images": [{"id": 7, "file_name": "../7.jpg"}]}, "image 1, file_name: expected a path inside"),
        ({"images": [{"id": 7, "file_name": "7.jpg"}] * 2}, "image 2, id: 7 was already used in this file"),
        ({"images": None}, "images: expected a list, got None"),
    ],
)
def test_a_wrong_annotation_file_is_one_line(tmp_path, instances, message):
    with pytest.raises(InputError) as caught:
        write(tmp_path, instances=instances, num_images=1)
    assert str(caught.value).startswith(f"{tmp_path / 'instances_val2014.json'}, {message}")


def test_captions_of_other_images_and_a_sample_that_is_too_large_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"captions_val2014\.json: has no caption for 1 of the images, such as image 10"
    ):
        write(tmp_path, instances={"images": [{"id": 10, "file_name": "10.jpg"}]}, num_images=1)
    with pytest.raises(ConfigError, match=r"num_images 4: .*instances_val2014\.json has only 3 images"):
        write(tmp_path, num_images=4)
    with pytest.raises(ConfigError, match="num_images 0: must be at least 1"):
        write(tmp_path, num_images=0)
    with pytest.raises(InputError, match=r"synonyms\.txt: has no words"):
        write(tmp_path, synonyms="\n , \n")
