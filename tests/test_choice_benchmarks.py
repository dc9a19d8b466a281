"""SEED-Image, ScienceQA-IMG and GQA: one right answer per question, found by exact rules."""

import json
from copy import deepcopy
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.base import Benchmark
from seva_ray.benchmarks.gqa import Gqa
from seva_ray.benchmarks.scienceqa import ScienceQa, llava_letter
from seva_ray.benchmarks.seed_bench import SeedBench
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response
from seva_ray.scoring.right_wrong import Decides

LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."


def seed_row(question_id: str, image: str, dimension: int, answer: str, **changed: Any) -> dict[str, Any]:
    choices = {f"choice_{letter}": f"thing {letter}" for letter in "abcd"}
    return choices | {
        "question_id": question_id,
        "data_id": image,
        "data_type": "image" if dimension < 10 else "video",
        "question": "What is it?",
        "question_type_id": dimension,
        "answer": answer,
        **changed,
    }


SEED: dict[str, Any] = {
    "question_type": {"Scene Understanding": 1, "Text Recognition": 9, "Action Prediction": 11},
    "questions": [
        seed_row("101", "454426_2591111986", 1, "A"),
        seed_row("102", "1_2", 9, "D"),
        seed_row("103", "454426_2591111986", 9, "B"),
        seed_row("v1", "clip.mp4", 11, "C"),
    ],
}


def problem(image: str | None, answer: int = 1, subject: str = "natural science", hint: str = "") -> dict[str, Any]:
    return {
        "question": "Which is bigger?",
        "choices": ["a cat", "a cow"],
        "answer": answer,
        "hint": hint,
        "image": image,
        "subject": subject,
        "split": "test",
    }


PROBLEMS = {
    "1": problem("image.png"),
    "2": problem(None),
    "3": problem("image.png", answer=0, subject="social science", hint="Cows are big."),
    "4": problem("image.png"),  # It is in the training split.
}
SPLITS = {"train": ["4"], "test": ["1", "2", "3"]}


def gqa_row(image: str, answer: str, structural: str) -> dict[str, Any]:
    return {
        "question": "Is it so?",
        "answer": answer,
        "imageId": image,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "rel", "detailed": "x"},
    }


GQA = {
    "201": gqa_row("n7", "yes", "verify"),
    "202": gqa_row("n8", "dog", "query"),
    "203": gqa_row("n7", "cup", "query"),
}


def seed(folder: Path, content: Any = SEED) -> SeedBench:
    (folder / "SEED-Bench.json").write_text(json.dumps(content))
    return SeedBench(path=str(folder / "SEED-Bench.json"), image_root="images")


def scienceqa(folder: Path, problems: Any = PROBLEMS, splits: Any = SPLITS) -> ScienceQa:
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    return ScienceQa(path=str(folder), image_root="images")


def gqa(folder: Path, content: Any = GQA) -> Gqa:
    (folder / "testdev.json").write_text(json.dumps(content))
    return Gqa(path=str(folder / "testdev.json"), image_root="images")


def scores(benchmark: Benchmark, **texts: str) -> dict[str, float]:
    """Metrics if the question `q<id>` is answered with its text, and the others are not answered."""
    responses = {key[1:]: Response(prompt_id=key[1:], text=text, finish_reason="stop") for key, text in texts.items()}
    tally = benchmark.tally(responses)
    assert list(tally.image_ids) == list(dict.fromkeys(prompt.image_id for prompt in benchmark.prompts()))
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in benchmark.metrics(sums).items()}


def test_seed_asks_its_image_questions_with_options_and_keeps_those_of_an_image_together(tmp_path):
    prompts = list(seed(tmp_path).prompts())
    assert [prompt.prompt_id for prompt in prompts] == ["101", "103", "102"]
    assert prompts[0].question == f"What is it?\nA. thing a\nB. thing b\nC. thing c\nD. thing d\n{LETTER}"
    assert prompts[0].image_path == "454426_2591111986"


def test_seed_takes_the_letter_alone_and_gives_each_dimension_its_accuracy(tmp_path):
    # "D." is not the letter alone, which is all that LLaVA's script takes; 103 has no answer. One of three is right.
    assert scores(seed(tmp_path), qv1="C", q101=" A\n", q102="D.") == {
        "SEED-Image accuracy": pytest.approx(100 / 3),
        "SEED-Image Scene Understanding accuracy": 100,
        "SEED-Image Text Recognition accuracy": 0,
    }


def test_scienceqa_asks_the_test_splits_questions_with_an_image(tmp_path):
    prompts = {prompt.prompt_id: prompt for prompt in scienceqa(tmp_path).prompts()}
    assert list(prompts) == ["1", "3"]
    assert prompts["1"].question == f"Which is bigger?\nA. a cat\nB. a cow\n{LETTER}"
    assert prompts["3"].question == f"Context: Cows are big.\nWhich is bigger?\nA. a cat\nB. a cow\n{LETTER}"
    assert prompts["3"].image_path == "3/image.png"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. a cow", "B"),
        ("B.", None),  # Nothing follows, so it has not the form "B. ".
        ("The answer is B.", "B"),
        ("I think. The answer is B. Really", "B"),
        ("The answer is A. The answer is B.", None),
        ("The answer is B", None),  # The pattern wants one more character.
        ("b", None),
        ("a cow", None),
        ("", None),
    ],
)
def test_scienceqas_letter_is_found_by_llavas_rule(text, letter):
    assert llava_letter(text) == letter


def test_scienceqa_scores_by_subject(tmp_path):
    assert scores(scienceqa(tmp_path), q1="B. a cow", q3="C") == {
        "ScienceQA-IMG accuracy": 50,
        "ScienceQA-IMG natural science accuracy": 100,
        "ScienceQA-IMG social science accuracy": 0,
    }


def test_gqa_asks_for_a_short_answer_with_the_questions_of_an_image_together(tmp_path):
    prompts = list(gqa(tmp_path).prompts())
    assert [key for key, _ in groupby(prompts, key=lambda prompt: prompt.image_path)] == ["n7.jpg", "n8.jpg"]
    assert prompts[0].question == f"Is it so?\n{SHORT}"


def test_gqa_compares_in_lower_case_without_the_last_periods(tmp_path):
    # "Yes." is yes and "DOG" is dog; "a cup" is not cup: GQA's script has no other normalisation.
    assert scores(gqa(tmp_path), q201="Yes.", q202="DOG", q203="a cup") == {
        "GQA accuracy": pytest.approx(200 / 3),
        "GQA binary accuracy": 100,
        "GQA open accuracy": 50,
    }


@pytest.mark.parametrize("make", [seed, scienceqa, gqa])
def test_an_answer_with_an_error_and_no_answer_count_as_wrong(tmp_path, make):
    benchmark = make(tmp_path)
    prompts = list(benchmark.prompts())
    right = {"101": "A", "102": "D", "103": "B", "1": "B", "3": "A", "201": "yes", "202": "dog", "203": "cup"}
    texts = {f"q{prompt.prompt_id}": right[prompt.prompt_id] for prompt in prompts}
    assert set(scores(benchmark, **texts).values()) == {100.0}
    failed = {p.prompt_id: Response(prompt_id=p.prompt_id, text=right[p.prompt_id], error="x") for p in prompts[:1]}
    tally = benchmark.tally(failed)
    assert tally.counts[:, [name.endswith("_right") for name in tally.names]].sum() == 0
    assert tally.counts.sum() == len(prompts)


@pytest.mark.parametrize("make", [seed, scienceqa, gqa])
def test_the_outcome_of_every_question_is_known(tmp_path, make):
    benchmark = make(tmp_path)
    ids = [prompt.prompt_id for prompt in benchmark.prompts()]
    assert isinstance(benchmark, Decides)
    right = {"101": "A", "102": "D", "103": "B", "1": "B", "3": "A", "201": "yes", "202": "dog", "203": "cup"}
    wrong, *others = ids
    responses = {key: Response(prompt_id=key, text=right[key], finish_reason="stop") for key in others[:1]}
    responses[wrong] = Response(prompt_id=wrong, text="I cannot say", finish_reason="stop")
    assert benchmark.correct(responses) == {key: key in others[:1] for key in ids}


def changed(content: Any, *path: Any, to: Any) -> Any:
    content = deepcopy(content)
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return content


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("questions", 0, "answer"), "E", "question 1, answer: expected A, B, C or D, got 'E'"),
        (("questions", 0, "choice_c"), None, "question 1, choice_c: expected a number or text, got None"),
        (
            ("questions", 0, "question_type_id"),
            11,
            "question 1, question_type_id: 11 is not one of the image dimensions",
        ),
        (("questions", 0, "question_type_id"), 2, "question 1, question_type_id: 2 is not one of the image dimensions"),
        (("questions", 0, "data_type"), "Single Image", "question 1, data_type: expected image or video"),
        (("questions", 0, "data_id"), "../x", "question 1, data_id: expected a path inside the image root"),
        (("questions", 1, "question_id"), "101", "question 2, question_id: 101 was already used in this file"),
        (("questions", 1), [], "question 2: is not a JSON object"),
        (("questions",), {}, "questions: expected a list, got {}"),
        (("questions",), [SEED["questions"][3]], "data_type image: has no questions"),
        (("question_type",), None, "question_type: is not a JSON object"),
    ],
)
def test_a_wrong_seed_file_is_one_line(tmp_path, path, to, message):
    with pytest.raises(InputError) as caught:
        seed(tmp_path, changed(SEED, *path, to=to))
    assert str(caught.value).startswith(f"{tmp_path / 'SEED-Bench.json'}, {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("1", "answer"), 2, "problems.json, problem 1, answer: expected 0 or 1, got 2"),
        (("1", "choices"), ["one"], "problems.json, problem 1, choices: expected 2 to 5, got 1"),
        (("1", "choices"), "ab", "problems.json, problem 1, choices: expected a list, got 'ab'"),
        (("1", "question"), "", "problems.json, problem 1, question: expected text, got ''"),
        (("1", "image"), "../x.png", "problems.json, problem 1, image: expected a path inside the image root"),
        (("1",), 7, "problems.json, problem 1: is not a JSON object"),
    ],
)
def test_a_wrong_scienceqa_problem_is_one_line(tmp_path, path, to, message):
    with pytest.raises(InputError) as caught:
        scienceqa(tmp_path, changed(PROBLEMS, *path, to=to))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": ["1", "9"]}, "pid_splits.json, test: '9' is not in problems.json"),
        ({"test": ["1", "1"]}, "pid_splits.json, test, problem: 1 was already used in this file"),
        ({"val": []}, "pid_splits.json, test: expected a list, got None"),
        ({"test": ["2"]}, "problems.json, test split with images: has no questions"),
        ([], "pid_splits.json: expected an object, got []"),
    ],
)
def test_splits_that_do_not_fit_the_problems_are_one_line(tmp_path, splits, message):
    with pytest.raises(InputError) as caught:
        scienceqa(tmp_path, splits=splits)
    assert str(caught.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("201", "isBalanced"), False, ", question 201, isBalanced: expected true"),
        (("201", "answer"), None, ", question 201, answer: expected text, got None"),
        (("201", "types"), None, ", question 201, types: is not a JSON object"),
        (("201",), "yes", ", question 201: is not a JSON object"),
    ],
)
def test_a_wrong_gqa_file_is_one_line(tmp_path, path, to, message):
    with pytest.raises(InputError) as caught:
        gqa(tmp_path, changed(GQA, *path, to=to))
    assert str(caught.value).startswith(f"{tmp_path / 'testdev.json'}{message}")


def test_a_question_id_that_comes_twice_in_an_object_is_found(tmp_path):
    row = json.dumps(GQA["201"])
    (tmp_path / "testdev.json").write_text(f'{{"201": {row}, "202": {row}, "201": {row}}}')
    with pytest.raises(InputError, match=r"testdev\.json: '201' comes twice in one object"):
        Gqa(path=str(tmp_path / "testdev.json"), image_root="images")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_an_empty_or_broken_gqa_file_is_one_line(tmp_path, content):
    (tmp_path / "testdev.json").write_text(content)
    with pytest.raises(InputError, match=r"testdev\.json: (is not JSON|expected an object|has no questions)"):
        Gqa(path=str(tmp_path / "testdev.json"), image_root="images")
