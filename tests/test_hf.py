"""Sources that `datasets` reads: every layout and every form of rows that people have."""

import base64
import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import tyro
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.sources import Hf
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.images import load_image

COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
QUESTIONS = ["Is it red?", "Is it green?", "007"]


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(colour) for colour in COLOURS]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory with three images below `pictures`."""
    (tmp_path / "pictures").mkdir()
    for number, data in enumerate(PICTURES):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(data)
    return tmp_path


def saved(images_column: str = "image") -> Dataset:
    """Questions with images inside, as Image features."""
    one = [{"bytes": data, "path": None} for data in PICTURES]
    column, feature = (one, ImageFeature()) if images_column == "image" else ([[item] for item in one], None)
    features = Features({"question": Value("string"), images_column: feature or List(ImageFeature())})
    return Dataset.from_dict({"question": QUESTIONS, images_column: column}, features=features)


def asked(source: Hf) -> list[tuple[str, Any]]:
    """The questions with the colours of their images, which are loaded as generation loads them."""
    found = []
    for prompt in source.prompts():
        assert prompt.error is None
        image = load_image(path=prompt.image_path, data=prompt.image_bytes, image_root=source.image_root)
        found.append((prompt.question, image.getpixel((0, 0))))
    return found


EXPECTED = list(zip(QUESTIONS, COLOURS, strict=True))


@pytest.mark.parametrize("column", ["image", "images"])
def test_parquet_with_image_features_is_read_as_a_file_and_as_a_directory_of_shards(tmp_path: Path, column: str):
    (tmp_path / "data").mkdir()
    for shard, rows in enumerate((range(2), range(2, 3))):
        saved(column).select(rows).to_parquet(str(tmp_path / f"data/train-0000{shard}-of-00002.parquet"))
    assert asked(Hf(path=str(tmp_path))) == EXPECTED
    assert asked(Hf(path=str(tmp_path / "data/train-00000-of-00002.parquet"))) == EXPECTED[:2]


def test_a_directory_of_save_to_disk_is_read_and_a_dict_of_splits_by_its_split(tmp_path: Path):
    saved().save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": saved().select([0]), "test": saved("images").select([1])}).save_to_disk(str(tmp_path / "two"))
    assert asked(Hf(path=str(tmp_path / "one"))) == EXPECTED
    assert asked(Hf(path=str(tmp_path / "two"))) == EXPECTED[:1]
    assert asked(Hf(path=str(tmp_path / "two"), split="test")) == EXPECTED[1:2]
    with pytest.raises(InputError, match=r"no split 'dev'; it has train, test \(--source\.split\)"):
        list(Hf(path=str(tmp_path / "two"), split="dev").prompts())


def test_a_tar_of_webdataset_is_read_with_its_questions_in_txt_or_in_json(tmp_path: Path):
    def tar(name: str, suffix: str, texts: list[str]) -> str:
        with tarfile.open(tmp_path / name, "w") as file:
            for number, (data, text) in enumerate(zip(PICTURES, texts, strict=True)):
                for end, content in (("png", data), (suffix, text.encode())):
                    info = tarfile.TarInfo(f"{number:03d}.{end}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
        return str(tmp_path / name)

    assert asked(Hf(path=tar("a.tar", "txt", QUESTIONS), columns={"question": "txt"})) == EXPECTED
    assert asked(Hf(path=tar("b.tar", "json", [json.dumps({"question": text}) for text in QUESTIONS]))) == EXPECTED


def test_a_folder_with_metadata_is_read_and_images_keep_their_places(images: Path):
    rows = [
        {"file_name": f"pictures/{number}.png", "text": question, "id": number}
        for number, question in enumerate(QUESTIONS)
    ]
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Hf(path=str(images), columns={"question": "text"})
    assert asked(source) == EXPECTED
    assert [prompt.image_path for prompt in source.prompts()] == [f"pictures/{n}.png" for n in range(3)]


def turns(question: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"<image>\n{question}"},
        {"role": "assistant", "content": "Yes."},
    ]


def parts(question: str, number: int) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form, with the image inside."""
    url = f"data:image/png;base64,{base64.b64encode(PICTURES[number]).decode()}"
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question}]}, turns(question)[2]]


FORMS = {
    "question and image": lambda path, question, number: {"question": question, "image": path},
    "query and images": lambda path, question, number: {"query": f"<image>{question}", "images": [path]},
    "Alpaca": lambda path, question, number: {"instruction": question, "input": "", "output": "Yes.", "images": [path]},
    "messages and images": lambda path, question, number: {"messages": turns(question), "images": [path]},
    "OpenAI's parts": lambda path, question, number: {"messages": parts(question, number)},
    "TRL's prompt": lambda path, question, number: {"prompt": turns(question)[:2], "images": [{"path": path}]},
    "ShareGPT": lambda path, question, number: {
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "Yes."}],
        "image": path,
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_forms_of_the_common_trainers_are_recognised(images: Path, form: str, suffix: str):
    rows = [FORMS[form](f"pictures/{number}.png", question, number) for number, question in enumerate(QUESTIONS)]
    text = json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
    (images / f"rows.{suffix}").write_text(text)
    assert asked(Hf(path=str(images / f"rows.{suffix}"))) == EXPECTED


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_table_of_texts_keeps_a_question_that_looks_like_a_number(images: Path, suffix: str, delimiter: str):
    with (images / f"rows.{suffix}").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image", "question"])
        writer.writerows([f"pictures/{number}.png", question] for number, question in enumerate(QUESTIONS))
    assert asked(Hf(path=str(images / f"rows.{suffix}"))) == EXPECTED


def test_columns_of_other_names_are_told_on_the_command_line(images: Path):
    rows = [{"ask": QUESTIONS[0], "where": "pictures/0.png", "number": 0, "set": "colours", "image": "x", "text": "y"}]
    (images / "rows.json").write_text(json.dumps(rows))
    line = ["--columns", "question", "ask", "image", "where", "prompt_id", "number", "source", "set"]
    source = tyro.cli(Hf, args=["--path", str(images / "rows.json"), *line])
    (prompt,) = source.prompts()
    assert (prompt.prompt_id, prompt.question, prompt.source) == ("0", QUESTIONS[0], "colours")
    assert prompt.image_path == "pictures/0.png"
    with pytest.raises(ConfigError, match=r"columns 'questoin': must be one of question, conversation, image"):
        Hf(path="a.json", columns={"questoin": "ask"})


def test_every_turn_of_the_user_is_a_question_about_the_image(images: Path):
    conversation = [*turns("One?"), {"role": "user", "content": "Two?"}]
    (images / "rows.jsonl").write_text(json.dumps({"messages": conversation, "images": ["pictures/0.png"]}))
    prompts = list(Hf(path=str(images / "rows.jsonl")).prompts())
    assert [(prompt.prompt_id, prompt.question) for prompt in prompts] == [("0-0", "One?"), ("0-1", "Two?")]
    assert {prompt.image_id for prompt in prompts} == {"pictures/0.png"}


def test_images_without_questions_are_asked_the_questions_given(images: Path):
    source = Hf(path=str(images), questions=("What is it?", "Where?"))
    assert asked(source) == [(question, colour) for colour in COLOURS for question in ("What is it?", "Where?")]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"image": "a.png", "caption": "x"}, "no column with a question (question, query, "),
        ({"image": "a.png", "caption": "x"}, "the row has image, caption; name yours with --source.columns question"),
        ({"question": "a?"}, "no column with an image (jpg, jpeg, png, webp, image, "),
        ({"question": "a?", "images": ["a.png", "b.png"]}, "has 2 images; rows with one image are read"),
        ({"question": "a?", "image": "https://x.org/a.png"}, "the image is at a web address, and nothing is download"),
        ({"question": "a?", "image": "data:image/png;base64,?"}, "the image is a data URL that is not base64"),
        ({"question": "a?", "image": "/elsewhere/a.png"}, "the image '/elsewhere/a.png' is outside "),
        ({"question": 1.5, "image": "a.png", "text": "x"}, "column 'text' may hold captions"),
        ({"question": 1.5, "image": "a.png", "query": "x"}, None),
        ({"txt": "a dog", "jpg": "a.png"}, "the row has txt, jpg; name yours with --source.columns question NAME "),
        ({"Text": "a dog", "image": "a.png"}, "column 'Text' may hold captions, so it is asked only if you name it"),
        ({"messages": [{"role": "assistant", "content": "x"}], "image": "a.png"}, "has no turn of a user or human"),
        ({"messages": [{"role": "user"}], "image": "a.png"}, "a turn of the conversation has no text"),
        ("text", "must be an object"),
    ],
)
def test_a_row_in_no_known_form_is_an_error_of_its_own(images: Path, row: Any, error: str | None):
    good = {"question": "Is it red?", "image": "pictures/0.png"}
    (images / "rows.jsonl").write_text("\n".join(map(json.dumps, (row, good))))
    first, second = Hf(path=str(images / "rows.jsonl")).prompts()
    assert (second.error, second.question) == (None, "Is it red?")
    assert first.error is None if error is None else error in (first.error or "")


def test_a_line_that_is_no_json_is_an_error_of_its_own(images: Path):
    good = json.dumps({"question": "Is it red?", "image": "pictures/0.png"})
    (images / "rows.jsonl").write_text(f"{good}\n{{nonsense\n{good}\n")
    errors = [prompt.error for prompt in Hf(path=str(images / "rows.jsonl")).prompts()]
    assert errors[0] is errors[2] is None
    assert (errors[1] or "").startswith("row 1: not JSON (")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "nowhere.json",
            "nowhere.json: no such file or directory, and no data set of this name in Hugging Face's",
        ),
        ("me/nothing", "me/nothing: no such file or directory, and no data set of this name in Hugging Face's cache"),
        ("notes.txt", "notes.txt: must be a directory, or a file with one of the suffixes .parquet, .arrow, .tar, "),
        ("broken.parquet", "broken.parquet: "),
        ("empty", "empty: "),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 broken")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        list(Hf(path=name).prompts())
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_set_in_hugging_faces_cache_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--me--colours"
    snapshot = repository / "snapshots" / ("a" * 40)
    (snapshot / "pictures").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "metadata.jsonl").write_text(json.dumps({"file_name": "pictures/0.png", "text": QUESTIONS[0]}))
    (repository / "blobs" / "b0").write_bytes(PICTURES[0])
    (snapshot / "pictures" / "0.png").symlink_to(repository / "blobs" / "b0")
    source = Hf(path="me/colours", columns={"question": "text"})
    assert source.path == str(snapshot)
    assert asked(source) == EXPECTED[:1]


def test_prompts_whose_images_are_inside_the_file_are_the_same_at_another_place(tmp_path: Path):
    store, first, second = Store(str(tmp_path / "runs")), tmp_path / "a", tmp_path / "b"
    for place in (first, second):
        place.mkdir()
        saved().to_parquet(str(place / "rows.parquet"))
    made = prepare(Prepare(), store, "x", Hf(path=str(first / "rows.parquet")))
    (first / "rows.parquet").unlink()
    again = prepare(Prepare(), store, "x", Hf(path=str(second / "rows.parquet")))
    assert (again.fingerprint, again.finished) == (made.fingerprint, made.finished)
    other = prepare(Prepare(), store, "y", Hf(path=str(second / "rows.parquet"), split="test"))
    assert other.fingerprint != made.fingerprint
