from pathlib import Path

import pytest

from seva_ray.benchmarks.mme import COGNITION, PERCEPTION, Mme, said
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response

ALL = (*PERCEPTION, *COGNITION)
NESTED = ("landmark", "celebrity")  # Their published folders have images/ and questions_answers_YN/.


def write(folder: Path, skip_image: str = "", num_images: int = 2) -> Path:
    """Images of each task, each with one question whose answer is yes and one whose answer is no."""
    for task in ALL:
        nested = task in NESTED
        images, texts = (
            folder / task / name if nested else folder / task for name in ("images", "questions_answers_YN")
        )
        images.mkdir(parents=True, exist_ok=True)
        texts.mkdir(parents=True, exist_ok=True)
        for number in range(1, num_images + 1):
            name = f"{number:04}"
            if f"{task}/{name}" != skip_image:
                (images / f"{name}{'.png' if number % 2 else '.jpg'}").touch()
            lines = [f"Is it {answer}? Please answer yes or no.\t{answer}" for answer in ("Yes", "No")]
            (texts / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def metrics(benchmark: Mme, text_of) -> dict[str, float]:
    """Metrics if each prompt is answered with `text_of(prompt)`, or not answered if that is None."""
    texts = {prompt.prompt_id: text_of(prompt) for prompt in benchmark.prompts()}
    responses = {
        key: Response(prompt_id=key, text=text, finish_reason="stop") for key, text in texts.items() if text is not None
    }
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in benchmark.metrics(sums).items()}


def right(prompt) -> str:
    return "Yes" if "Is it Yes?" in prompt.question else "No, it is not."


def test_both_questions_of_every_image_are_asked_as_llava_asks_them(tmp_path):
    prompts = list(Mme(path=str(write(tmp_path))).prompts())
    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == 14 * 4
    assert prompts[0].question == "Is it Yes?\nAnswer the question using a single word or phrase."
    paths = {prompt.image_id: prompt.image_path for prompt in prompts}
    assert paths["existence/0002"] == "existence/0002.jpg"
    assert paths["landmark/0001"] == "landmark/images/0001.png"


def test_right_answers_score_200_in_every_task(tmp_path):
    scores = metrics(Mme(path=str(write(tmp_path))), right)
    assert scores["MME perception score (of 2000)"] == 2000
    assert scores["MME cognition score (of 800)"] == 800
    assert scores["MME OCR score (of 200)"] == 200


def test_a_model_that_always_says_yes_has_half_the_accuracy_and_no_accuracy_plus(tmp_path):
    scores = metrics(Mme(path=str(write(tmp_path))), lambda prompt: "Yes")
    assert scores["MME count accuracy"] == 50
    assert scores["MME count accuracy+"] == 0
    assert scores["MME perception score (of 2000)"] == 500


def test_an_image_counts_for_accuracy_plus_only_if_both_its_answers_are_right(tmp_path):
    # In count, the second question of the first image is wrong: 3 of 4 answers, 1 of 2 images.
    scores = metrics(Mme(path=str(write(tmp_path))), lambda p: "Yes" if p.prompt_id == "count/0001-2" else right(p))
    assert scores["MME count accuracy"] == 75
    assert scores["MME count accuracy+"] == 50
    assert scores["MME count score (of 200)"] == 125
    assert scores["MME perception score (of 2000)"] == 1925


def test_outcomes_are_of_single_questions_and_agree_with_accuracy(tmp_path):
    benchmark = Mme(path=str(write(tmp_path)))
    always = {p.prompt_id: Response(prompt_id=p.prompt_id, text="Yes") for p in benchmark.prompts()}
    assert sum(benchmark.correct(always).values()) == 14 * 2
    correct = benchmark.correct({key: always[key] for key in ("count/0001-1", "count/0001-2")})
    assert {key for key, right in correct.items() if right} == {"count/0001-1"}
    assert len(correct) == 14 * 4, "a question without a response is wrong"


def test_no_answer_is_wrong_for_both_labels(tmp_path):
    scores = metrics(Mme(path=str(write(tmp_path))), lambda prompt: None)
    assert set(scores.values()) == {0.0}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("NO", "no"),
        (" yes", "yes"),
        ("It is", "other"),
        ("The answer is yes", "other"),
        ("Nothing", "no"),  # It begins with "noth".
        ("Unknown", "other"),  # Only "unkn" is read.
        ("", "other"),
    ],
)
def test_an_answer_is_read_from_its_first_four_characters(text, answer):
    assert said(text) == answer


def test_a_missing_image_fails_its_own_questions_only(tmp_path):
    prompts = list(Mme(path=str(write(tmp_path, skip_image="color/0002"))).prompts())
    assert [p.prompt_id for p in prompts if p.error == "no image beside color/0002.txt"] == [
        "color/0002-1",
        "color/0002-2",
    ]
    assert sum(prompt.error is not None for prompt in prompts) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Is it?\tYes\n", "expected 2 questions, got 1"),
        ("", "expected 2 questions, got 0"),
        ("Is it?\tYes\nIs it?\tMaybe\n", r"row 2: expected question, tab, Yes or No, got 'Is it?\tMaybe'"),
        ("Is it? Yes\nIs it?\tNo\n", "row 1: expected question, tab, Yes or No, got 'Is it? Yes'"),
    ],
)
def test_a_wrong_text_file_is_one_line(tmp_path, content, message):
    write(tmp_path)
    (tmp_path / "scene" / "0001.txt").write_text(content)
    with pytest.raises(InputError) as caught:
        Mme(path=str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/scene/0001.txt")
    assert str(caught.value).endswith(message)


def test_a_missing_task_or_folder_is_named(tmp_path):
    write(tmp_path)
    for text in (tmp_path / "OCR").glob("*.txt"):
        text.unlink()
    with pytest.raises(InputError, match=r"/OCR: has no questions"):
        Mme(path=str(tmp_path))
    with pytest.raises(InputError, match=r"nowhere: no such directory"):
        Mme(path=str(tmp_path / "nowhere"))
