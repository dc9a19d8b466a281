import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.benchmarks.mmbench import MMBench
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.core.records import Prompt, Response
from seva_ray.stages import answers
from seva_ray.stages.evaluate import compare
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from tests.answered import responses

COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category"]


def picture(level: int) -> str:
    file = BytesIO()
    Image.new("RGB", (4, 4), (level, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def row(index: int, options: tuple[str, ...], answer: str, category: str = "ocr", image: str = "", hint: str = ""):
    cells = dict(zip("ABCD", options))
    return cells | {
        "index": str(index),
        "question": f"question {index % 1_000_000}?",
        "hint": hint,
        "answer": answer,
        "category": category,
        "image": image or picture(index % 1_000_000),
    }


def write(folder: Path, rows, language: Literal["en", "cn"] = "en", columns=COLUMNS) -> MMBench:
    def cell(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & set('\t\n"') else value

    lines = ["\t".join(columns), *("\t".join(cell(row.get(name, "")) for name in columns) for row in rows)]
    (folder / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return MMBench(path=str(folder / "dev.tsv"), language=language)


def published_like():
    """Question 1 has two options, question 2 three; each comes once per rotation, as in the published dev file."""
    return [
        row(1, ("cat", "dog"), "B"),
        row(2, ("red", "green", "blue"), "A", category="color"),
        row(1_000_001, ("dog", "cat"), "A"),
        row(1_000_002, ("green", "blue", "red"), "C", category="color"),
        row(2_000_002, ("blue", "red", "green"), "B", category="color"),
    ]


def answered(**texts: str) -> dict[str, Response]:
    return {key[1:]: Response(prompt_id=key[1:], text=text, finish_reason="stop") for key, text in texts.items()}


def metrics(benchmark: MMBench, responses) -> dict[str, float]:
    tally = benchmark.tally(responses)
    sums = dict(zip(tally.names, tally.counts.sum(0), strict=True))
    return {name: float(value) for name, value in benchmark.metrics(sums).items()}


def by_id(benchmark: MMBench) -> dict[str, Prompt]:
    return {prompt.prompt_id: prompt for prompt in benchmark.prompts()}


RIGHT = {"i1": "B", "i1000001": "A", "i2": "A", "i1000002": "C", "i2000002": "B"}


def test_a_question_is_asked_in_every_rotation_as_llava_asks_it(tmp_path):
    prompts = by_id(write(tmp_path, published_like()))
    assert list(prompts) == ["1", "1000001", "2", "1000002", "2000002"], "the questions of one image are adjacent"
    assert (
        prompts["1000001"].question
        == "question 1?\nA. dog\nB. cat\nAnswer with the option's letter from the given choices directly."
    )
    assert prompts["2"].image_bytes == base64.b64decode(picture(2))
    assert prompts["1"].image_id == prompts["1000001"].image_id != prompts["2"].image_id


def test_a_hint_comes_before_the_question_and_the_chinese_file_gets_the_chinese_request(tmp_path):
    rows = [row(1, ("猫", "狗"), "A", hint="两行\n提示"), row(1_000_001, ("狗", "猫"), "B", hint="nan")]
    benchmark = write(tmp_path, rows, language="cn")
    prompts = by_id(benchmark)
    assert prompts["1"].question == "两行\n提示\nquestion 1?\nA. 猫\nB. 狗\n请直接回答选项字母。"
    assert prompts["1000001"].question == "question 1?\nA. 狗\nB. 猫\n请直接回答选项字母。"
    assert benchmark.name == "mmbench-cn-llava"


def test_qwens_protocol_names_hint_question_and_options_and_has_a_name_of_its_own(tmp_path):
    rows = [row(1, ("dog", "cat"), "A", hint="look"), row(1_000_001, ("cat", "dog"), "B", hint="nan")]
    written = write(tmp_path, rows)
    benchmark = MMBench(path=written.path, protocol="qwen2-vl")
    prompts, request = by_id(benchmark), "Please select the correct answer from the options above."
    assert prompts["1"].question == f"Hint: look\nQuestion: question 1?\nOptions:\nA. dog\nB. cat\n{request}"
    assert prompts["1000001"].question == f"Question: question 1?\nOptions:\nA. cat\nB. dog\n{request}"
    assert benchmark.name == "mmbench-en-qwen2-vl"
    chinese = by_id(MMBench(path=written.path, protocol="qwen2-vl", language="cn"))
    assert chinese["1"].question.endswith("\n请直接回答选项字母。")


def test_qwen3s_and_smolvlm2s_protocols_ask_for_a_letter_in_their_own_words(tmp_path):
    rows = [row(1, ("dog", "cat"), "A", hint="look"), row(1_000_001, ("cat", "dog"), "B", hint="nan")]
    written = write(tmp_path, rows)
    qwen, smol = (MMBench(path=written.path, protocol=protocol) for protocol in ("qwen3-vl", "smolvlm2"))
    assert by_id(qwen)["1"].question == (
        "Hint: look\nQuestion: question 1?\nOptions:\nA. dog\nB. cat\nAnswer with the option letter only."
    )
    assert by_id(smol)["1"].question == (
        "Question: question 1?\nHint: look\nChoices:\nA. dog\nB. cat\nAnswer with a letter."
    )
    assert by_id(smol)["1000001"].question == "Question: question 1?\nChoices:\nA. cat\nB. dog\nAnswer with a letter."
    assert [one.name for one in (qwen, smol)] == ["mmbench-en-qwen3-vl", "mmbench-en-smolvlm2"]
    chinese = by_id(MMBench(path=written.path, protocol="qwen3-vl", language="cn"))
    assert chinese["1"].question.endswith("\nAnswer with the option letter only.")


def test_a_question_is_right_only_if_all_its_rotations_are(tmp_path):
    benchmark = write(tmp_path, published_like())
    assert metrics(benchmark, answered(**RIGHT))["MMBench circular accuracy"] == 100
    # Question 2 is right as written and wrong in its last rotation: half of the questions, all of the first rows.
    scores = metrics(benchmark, answered(**RIGHT | {"i2000002": "A"}))
    assert scores == {
        "MMBench circular accuracy": 50,
        "MMBench circular color accuracy": 0,
        "MMBench circular ocr accuracy": 100,
        "MMBench accuracy of the first row": 100,
    }


def test_outcomes_are_of_whole_questions_and_agree_with_circular_accuracy(tmp_path):
    benchmark = write(tmp_path, published_like())
    assert benchmark.correct(answered(**RIGHT)) == {"1": True, "2": True}
    assert benchmark.correct(answered(**RIGHT | {"i2000002": "A"})) == {"1": True, "2": False}
    assert benchmark.correct(answered(**{key: RIGHT[key] for key in RIGHT if key != "i1000001"})) == {
        "1": False, "2": True,
    }  # fmt: skip


def test_a_flip_shows_the_answers_to_all_rotations_with_the_options_that_they_choose(tmp_path):
    benchmark = write(tmp_path, published_like())
    store = Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(), store, benchmark.name, benchmark)
    right = {key[1:]: text for key, text in RIGHT.items()}
    sides = [right | {"2000002": "A"}, right | {"1": "I see", "1000001": ""}]
    before, after = (responses(store, prompts, name, texts) for name, texts in zip(("start", "policy"), sides))
    scores = compare(Evaluate(num_resamples=100), store, benchmark, prompts, before, after, "policy")
    gained, lost = answers.flips(store, scores, 3, lambda prompts, row: row["image_bytes"])
    assert (gained.prompt_id, gained.question) == ("2", by_id(benchmark)["2"].question)
    assert (gained.start, gained.policy) == ("A (red)\nC (red)\nA (blue)", "A (red)\nC (red)\nB (red)")
    assert (lost.start, lost.policy) == ("B (dog)\nA (dog)", "I see\n")
    incomplete = answered(i2="A", i1000002="C")
    assert benchmark.told(incomplete, "2") is None


def test_a_model_that_always_says_a_is_right_in_no_circle(tmp_path):
    scores = metrics(write(tmp_path, published_like()), answered(**dict.fromkeys(RIGHT, "A")))
    assert scores["MMBench circular accuracy"] == 0
    assert scores["MMBench accuracy of the first row"] == 50


def test_a_missing_rotation_and_one_with_an_error_count_as_wrong(tmp_path):
    benchmark = write(tmp_path, published_like())
    responses = answered(**RIGHT)
    del responses["1000001"]
    responses["2"] = Response(prompt_id="2", text="A", error="engine died")
    assert metrics(benchmark, responses)["MMBench circular accuracy"] == 0


def test_a_file_without_rotations_is_rotated_here_as_the_published_one_is(tmp_path):
    benchmark = write(tmp_path, published_like())
    published = {prompt.prompt_id: prompt.question for prompt in benchmark.prompts()}
    made = write(tmp_path, published_like()[:2])
    assert {prompt.prompt_id: prompt.question for prompt in made.prompts()} == published
    assert metrics(made, answered(**RIGHT))["MMBench circular accuracy"] == 100


def test_an_image_may_be_the_index_of_the_row_that_holds_it(tmp_path):
    rows = published_like()
    rows[1]["image"] = rows[2]["image"] = "1"
    prompts = by_id(write(tmp_path, rows))
    assert {prompt.image_bytes for prompt in prompts.values()} == {base64.b64decode(picture(1))}


def test_an_image_that_is_not_base64_fails_its_own_rows_only(tmp_path):
    rows = published_like()
    rows[0]["image"] = "?" * 100
    errors = [prompt.error for prompt in by_id(write(tmp_path, rows)).values()]
    assert all("image of index 1: is not base64" in (error or "") for error in errors[:2])
    assert errors[2:] == [None] * 3


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B) a dog", "B"),
        ("The answer is B.", "B"),
        ("选B。", None),  # The letter is not a separate word.
        ("B。", "B"),
        ("b", None),  # The letters are capitals.
        ("A", "A"),
        ("A cat", "A"),
        ("A red bird sits there", "A"),  # The article counts as a letter.
        ("A or B", None),
        ("It is a black dog I think", "B"),  # No letter: the only option whose text is there counts.
        ("It is a BLACK DOG", "B"),
        ("tabby cat or black dog", None),
        ("It is a black dog, as I see it in the middle of the picture", "B"),
        ("Z. It is a black dog", None),  # VLMEvalKit's letter for no option.
        ("D", None),  # There is no option D.
        ("", None),
    ],
)
def test_an_answers_letter_is_found_by_mmbenchs_rules(text, letter):
    assert vlmevalkit_letter(text, ("tabby cat", "black dog")) == letter


def test_every_answer_chooses_the_letter_that_the_published_scorer_finds():
    verdicts = json.loads(Path("tests/published/mmbench.json").read_text(encoding="utf-8"))["verdicts"]
    found = {
        (options, answer): (vlmevalkit_letter(answer, options.split("|")), published)
        for options, answers_of in verdicts.items()
        for answer, published in answers_of.items()
    }
    others = {answer for (_, answer), (ours, published) in found.items() if ours != published}
    assert len(found) > 700
    assert all(set(answer) & set("。，：；！（）、") for answer in others), "only Chinese punctuation differs"
    assert "选 A。" in others, "a letter before a Chinese full stop chooses nothing there, and its option here"


@pytest.mark.parametrize(
    "form",
    [
        "The answer is {}.",
        "The answer is {}",
        "Option {} is correct.",
        "The correct option is ({}).",
        "{}\n\nThe image shows a cat, so the right option is this one.",
        "{}, because the image shows it.",
    ],
)
def test_a_model_that_answers_in_sentences_is_right_in_every_rotation(tmp_path, form):
    benchmark = write(tmp_path, published_like())
    scores = metrics(benchmark, answered(**{key: form.format(letter) for key, letter in RIGHT.items()}))
    assert scores["MMBench circular accuracy"] == scores["MMBench accuracy of the first row"] == 100


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"index": "x"}, "row 1, index: expected a whole number, got 'x'"),
        ({"index": "2"}, "row 2, index: 2 was already used in this file"),
        ({"answer": "C"}, "index 1, answer: expected A or B, got 'C'"),
        ({"answer": ""}, "index 1, answer: expected A or B, got ''"),
        ({"answer": "A"}, "index 1, answer: its rotations do not have the right option at every letter once"),
        ({"question": " "}, "index 1, question: expected text, got ' '"),
        ({"category": ""}, "index 1, category: expected text, got ''"),
        ({"B": ""}, "index 1, B: expected an option, got none"),
        ({"C": "fish"}, "index 1: 2 rows of a question with 3 options"),
        ({"index": "5000007"}, "index 5000007: a rotation of 7, which the file lacks"),
    ],
)
def test_a_wrong_row_is_one_line_that_names_file_row_and_field(tmp_path, changed, message):
    rows = published_like()
    rows[0] |= changed
    with pytest.raises(InputError) as caught:
        write(tmp_path, rows)
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith(str(tmp_path / "dev.tsv"))
    assert "\n" not in str(caught.value)


def test_the_test_split_without_answers_and_other_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"dev\.tsv: no column 'answer'; it has index, question"):
        write(tmp_path, published_like(), columns=[name for name in COLUMNS if name != "answer"])
    with pytest.raises(InputError, match=r"dev\.tsv: has no questions"):
        write(tmp_path, [])
    for content in (b"", b"\xff\xfe\x00", b"index\tquestion\n1\n2\t3\t4\n"):
        (tmp_path / "dev.tsv").write_bytes(content)
        with pytest.raises(InputError, match=r"dev\.tsv: is not a TSV file|dev\.tsv: no column"):
            MMBench(path=str(tmp_path / "dev.tsv"))
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        MMBench(path=str(tmp_path / "none.tsv"))
