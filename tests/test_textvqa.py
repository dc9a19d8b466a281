import json
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.textvqa import CONTRACTIONS, TextVqa, normalised_answer, worths
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response

SHORT = "Answer the question using a single word or phrase."


def row(question_id: int, image: str, question: str, answers: list[Any]) -> dict[str, Any]:
    return {"question_id": question_id, "image_id": image, "question": question, "answers": answers}


def published_like() -> list[Any]:
    return [
        row(34602, "00c3", "what is the brand of this camera?", ["nokia"] * 3 + ["Dakota"] * 6 + ["the dakota"]),
        row(34603, "00f1", "what does the sign say?", ["stop"] * 10),
        row(34604, "00c3", "what year is it?", ["2012"] * 10),
    ]


OCR = [
    {"question_id": "00f1", "text": f"What does the sign say?\nReference OCR token: STOP\n{SHORT}"},
    {"question_id": "00c3", "text": f"What is the brand of this camera?\nReference OCR token: DAKOTA, 200\n{SHORT}"},
    {"question_id": "00c3", "text": f"What year is it?\nReference OCR token: \n{SHORT}"},
]


def write(folder: Path, rows: list[Any], ocr: list[dict[str, str]] | None = None) -> TextVqa:
    (folder / "val.json").write_text(json.dumps({"dataset_version": "0.5.1", "data": rows}))
    (folder / "ocr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ocr or []))
    ocr_path = str(folder / "ocr.jsonl") if ocr else ""
    return TextVqa(path=str(folder / "val.json"), image_root="images", ocr_path=ocr_path)


def accuracy(benchmark: TextVqa, **texts: str) -> float:
    responses = {key[1:]: Response(prompt_id=key[1:], text=text, finish_reason="stop") for key, text in texts.items()}
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    (value,) = benchmark.metrics(sums).values()
    return float(value)


def test_llavas_prompts_are_taken_word_for_word_with_their_ocr_tokens(tmp_path):
    benchmark = write(tmp_path, published_like(), OCR)
    prompts = {prompt.prompt_id: prompt for prompt in benchmark.prompts()}
    assert list(prompts) == ["34602", "34604", "34603"], "the questions of one image are adjacent"
    assert prompts["34602"].question == OCR[1]["text"]
    assert prompts["34602"].image_path == "00c3.jpg"
    assert (benchmark.name, benchmark.protocol) == ("textvqa-llava", "llava")


def test_without_the_ocr_file_it_is_another_protocol_with_another_name(tmp_path):
    benchmark = write(tmp_path, published_like())
    assert next(iter(benchmark.prompts())).question == f"What is the brand of this camera?\n{SHORT}"
    assert (benchmark.name, benchmark.protocol) == ("textvqa-llava-no-ocr", "llava-no-ocr")


def test_an_answer_is_worth_what_the_people_who_gave_it_make_of_it():
    # Three gave nokia: each of them sees two others (2/3), each of the other seven sees three (1): (3 * 2/3 + 7) / 10.
    # Seven gave dakota, which is worth all. One person alone: nine see one giver (1/3), the giver sees none.
    # Two: eight see two (2/3), two see one (1/3).
    assert worths(["nokia"] * 3 + ["dakota"] * 7) == {"nokia": pytest.approx(0.9), "dakota": pytest.approx(1)}
    assert worths(["x"] + ["y"] * 2 + ["z"] * 7) == {
        "x": pytest.approx(0.3),
        "y": pytest.approx((8 * 2 + 2) / 30),
        "z": pytest.approx(1),
    }


def test_accuracy_is_the_mean_worth_over_all_questions_answered_or_not(tmp_path):
    benchmark = write(tmp_path, published_like(), OCR)
    assert accuracy(benchmark, q34602="Nokia.", q34603="STOP", q34604="the 2012") == pytest.approx(100 * (0.9 + 2) / 3)
    assert accuracy(benchmark, q34602="Dakota digital", q34603="stop") == pytest.approx(100 / 3)


def test_right_is_what_three_people_gave_and_no_fewer(tmp_path):
    people = ["stop"] * 3 + ["go"] * 2 + ["a", "b", "c", "d", "e"]
    benchmark = write(tmp_path, [row(1, "00f1", "what does the sign say?", people)])

    def right(text: str, error: str | None = None) -> bool:
        return benchmark.correct({"1": Response(prompt_id="1", text=text, error=error)})["1"]

    assert right("The STOP")
    assert not right("go")
    assert not right("x")
    assert not right("stop", error="engine died")
    assert benchmark.correct({}) == {"1": False}


def test_an_answer_with_an_error_is_worth_nothing(tmp_path):
    benchmark = write(tmp_path, published_like(), OCR)
    failed = {"34603": Response(prompt_id="34603", text="stop", error="engine died")}
    assert benchmark.tally(failed).counts.sum(0).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Coca-Cola", "coca cola"),  # An article is removed; a hyphen inside a word becomes a space.
        ("coca - cola", "coca cola"),  # A hyphen that touches a space is removed.
        ("a-b - c", "ab c"),  # Then all hyphens are removed, as in the published processor.
        ("go -now-then", "go nowthen"),
        ("$2,000.50", "$2000.50"),  # No comma; a period before a digit stays; $ is not punctuation.
        ("u.s.a.", "usa"),
        ("No. 5", "no 5"),
        ("ten apples", "10 apples"),
        ("none", "0"),
        ("dont", "don't"),
        ("joe's", "joe 's"),  # The possessive becomes a word of its own.
        ("thats", "that's"),
        ("what?!", "what"),  # "!" becomes a space, which is stripped.
        ("one\ntwo", "1 2"),
        ("An A", ""),
    ],
)
def test_answers_are_normalised_as_on_evalai(text, normal):
    assert normalised_answer(text) == normal


def test_contractions_lack_exactly_one_apostrophe():
    # From the published table, one of each kind.
    assert CONTRACTIONS["couldn'tve"] == CONTRACTIONS["couldnt've"] == "couldn't've"
    assert CONTRACTIONS["'ow'sat"] == "'ow's'at"
    assert CONTRACTIONS["yall'd've"] == "y'all'd've"
    assert not {"couldntve", "its", "well", "were", "wed", "id"} & set(CONTRACTIONS)
    assert len(CONTRACTIONS) == 114


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answers": ["stop"] * 9}, "question 2, answers: expected 10 texts, got 9 items"),
        ({"answers": ["stop"] * 9 + [7]}, "question 2, answers: expected 10 texts, got 10 items"),
        ({"answers": None}, "question 2, answers: expected a list, got None"),  # The test split has no answers.
        ({"question_id": 34602}, "question 2, question_id: 34602 was already used in this file"),
        ({"image_id": "../x"}, "question 2, image_id: expected a path inside the image root, got '../x'"),
        ({"question": ""}, "question 2, question: expected text, got ''"),
    ],
)
def test_a_wrong_row_is_one_line_that_names_file_row_and_field(tmp_path, changed, message):
    rows = published_like()
    rows[1] |= changed
    with pytest.raises(InputError) as caught:
        write(tmp_path, rows)
    assert str(caught.value) == f"{tmp_path / 'val.json'}, {message}"


def test_prompts_and_labels_that_do_not_match_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"ocr\.jsonl: lacks 1 of the questions of .*val\.json, such as 34604"):
        write(tmp_path, published_like(), OCR[:2])
    other = [*OCR, {"question_id": "00f1", "text": "Who?\nx"}]
    with pytest.raises(InputError, match=r"row 4, text: .*val\.json has no question 'Who\?' about image 00f1"):
        write(tmp_path, published_like(), other)
    with pytest.raises(InputError, match=r"ocr\.jsonl, row 4, text: .* has no question 'What year"):
        write(tmp_path, published_like(), [*OCR, OCR[2]])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"data": []}', '{"data": [5]}'])
def test_an_empty_or_broken_file_is_one_line(tmp_path, content):
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(InputError) as caught:
        TextVqa(path=str(tmp_path / "val.json"), image_root="images")
    assert str(caught.value).startswith(str(tmp_path / "val.json"))
    assert "\n" not in str(caught.value)
