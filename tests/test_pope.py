import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest

from seva_ray.benchmarks.base import Benchmark
from seva_ray.benchmarks.pope import Pope
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import Response
from seva_ray.scoring.right_wrong import Decides

CATEGORIES = ("random", "popular", "adversarial")


def row(question_id: int, image: str, thing: str, label: str) -> dict[str, Any]:
    text = f"Is there a {thing} in the image?"
    return {"question_id": question_id, "image": image, "text": text, "label": label}


def write(
    folder: Path, rows: Mapping[str, list[Any]], protocol: Literal["seva", "llava", "smolvlm2"] = "seva"
) -> Benchmark:
    for category in CATEGORIES:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in rows[category]]
        (folder / f"coco_pope_{category}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Pope(path=str(folder), image_root="images", protocol=protocol)


def published_like() -> dict[str, list[Any]]:
    """Two images in each file; question ids repeat between the files, as in the published ones."""
    absent = {"random": "fork", "popular": "car", "adversarial": "cup"}
    return {
        category: [
            row(1, "a.jpg", "dog", "yes"),
            row(2, "a.jpg", absent[category], "no"),
            row(3, "b.jpg", "cat", "yes"),
            row(4, "b.jpg", absent[category], "no"),
        ]
        for category in CATEGORIES
    }


def answers(pope: Benchmark, text: str) -> dict[str, Response]:
    return {p.prompt_id: Response(prompt_id=p.prompt_id, text=text, finish_reason="stop") for p in pope.prompts()}


def test_every_question_of_the_three_files_is_asked_once_with_its_own_id(tmp_path: Path) -> None:
    prompts = list(write(tmp_path, published_like()).prompts())
    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == 12
    assert sorted(prompt.source for prompt in prompts) == sorted(f"pope_{c}" for c in CATEGORIES for _ in range(4))


def test_the_questions_of_one_image_are_adjacent_over_all_three_files(tmp_path: Path) -> None:
    prompts = list(write(tmp_path, published_like()).prompts())
    assert [image_id for image_id, _ in groupby(prompts, key=lambda prompt: prompt.image_id)] == ["a.jpg", "b.jpg"]
    assert {prompt.image_path for prompt in prompts} == {"a.jpg", "b.jpg"}


def test_the_question_is_bare_and_the_name_says_the_protocol(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like())
    assert next(iter(pope.prompts())).question == "Is there a dog in the image?"
    assert pope.name == "pope-seva"


def test_llavas_protocol_asks_for_a_single_word_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like(), protocol="llava")
    assert (
        next(iter(pope.prompts())).question
        == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    )
    assert (pope.name, pope.protocol) == ("pope-llava", "llava")


def test_qwens_protocol_asks_for_yes_or_no_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, published_like())
    pope = Pope(path=str(tmp_path), image_root="images", protocol="qwen2-vl")
    assert next(iter(pope.prompts())).question == "Is there a dog in the image? Please answer yes or no."
    assert pope.name == "pope-qwen2-vl"


def test_smolvlm2s_protocol_is_a_bare_question_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like(), protocol="smolvlm2")
    assert next(iter(pope.prompts())).question == "Is there a dog in the image?"
    assert pope.name == "pope-smolvlm2"


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    write(tmp_path, published_like())
    with pytest.raises(ConfigError, match="protocol 'official': must be seva or llava or qwen2-vl"):
        Pope(path=str(tmp_path), image_root="images", protocol="official")  # type: ignore[arg-type]


def test_a_model_that_always_says_yes_is_half_right_with_a_yes_ratio_of_100(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like())
    tally = pope.tally(answers(pope, "Yes, there is."))
    assert list(tally.image_ids) == ["a.jpg", "b.jpg"]
    assert tally.counts.sum(axis=1).tolist() == [6, 6]
    metrics = pope.metrics(dict(zip(tally.names, tally.counts.sum(axis=0), strict=True)))
    assert metrics["POPE accuracy"] == metrics["POPE random precision"] == 50
    assert metrics["POPE recall"] == metrics["POPE yes-ratio"] == 100


def test_right_answers_score_100(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like())
    responses = answers(pope, "Yes") | {
        prompt.prompt_id: Response(prompt_id=prompt.prompt_id, text="No, there is not.", finish_reason="stop")
        for prompt in pope.prompts()
        if "dog" not in prompt.question and "cat" not in prompt.question
    }
    tally = pope.tally(responses)
    metrics = pope.metrics(dict(zip(tally.names, tally.counts.sum(axis=0), strict=True)))
    assert metrics["POPE accuracy"] == metrics["POPE F1"] == metrics["POPE adversarial precision"] == 100


def test_a_missing_response_and_one_with_an_error_count_as_wrong_whatever_the_label(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like())
    failed = {id: Response(prompt_id=id, text="Yes", error="engine died") for id in list(answers(pope, ""))[:5]}
    tally = pope.tally(failed)
    metrics = pope.metrics(dict(zip(tally.names, tally.counts.sum(axis=0), strict=True)))
    assert tally.counts.sum() == 12
    assert metrics["POPE accuracy"] == metrics["POPE F1"] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "row 5: is not JSON"),
        ("[" * 100_000, "row 5: is not JSON"),
        ("[1, 2]", "row 5: is not a JSON object"),
        (row(5, "a.jpg", "dog", "maybe"), "row 5, label: expected yes or no, got 'maybe'"),
        ({**row(5, "a.jpg", "dog", "yes"), "label": True}, "row 5, label: expected yes or no, got True"),
        ({**row(5, "a.jpg", "dog", "yes"), "text": " "}, "row 5, text: expected text, got ' '"),
        ({**row(5, "a.jpg", "dog", "yes"), "image": None}, "row 5, image: expected text, got None"),
        ({**row(5, "a.jpg", "dog", "yes"), "question_id": [5]}, "row 5, question_id: expected a number or text"),
        ({**row(5, "a.jpg", "dog", "yes"), "question_id": True}, "row 5, question_id: expected a number or text"),
        (row(4, "b.jpg", "dog", "yes"), "row 5, question_id: 4 was already used in this file"),
        (row(5, "../secret.jpg", "dog", "yes"), "row 5, image: expected a path inside the image root"),
        (row(5, "/etc/secret.jpg", "dog", "yes"), "row 5, image: expected a path inside the image root"),
    ],
)
def test_a_wrong_row_is_one_line_that_names_file_row_and_field(tmp_path: Path, line: Any, message: str) -> None:
    rows = published_like()
    rows["popular"].append(line)
    with pytest.raises(InputError) as caught:
        write(tmp_path, rows)
    assert str(caught.value).startswith(f"{tmp_path / 'coco_pope_popular.json'}, {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_or_binary_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, published_like())
    path = tmp_path / "coco_pope_adversarial.json"
    for content in (b"", b"\xff\xfe\x00", None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"coco_pope_adversarial\.json: "):
            Pope(path=str(tmp_path), image_root="images")
        path.touch()


def test_outcomes_of_questions_agree_with_the_accuracy(tmp_path: Path) -> None:
    pope = write(tmp_path, published_like())
    assert isinstance(pope, Decides)
    responses = answers(pope, "Yes")
    del responses["random-1"]
    correct = pope.correct(responses)
    assert len(correct) == 12
    assert correct["random-3"]
    assert not correct["random-1"], "without a response"
    assert not correct["random-2"], "the wrong answer"
    assert sum(correct.values()) == 5
