"""Question lists of the authors' scripts: every text is asked exactly as it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.sources import QuestionList

OCR = [{"image": "1.jpg", "text": "Who wrote this book? "}, {"image": "1.jpg", "text": " What is it?"}]
TEXT = [{"image": "a.jpg", "text": "Caption it.\nReference OCR token: "}]
FOLDERS = {"ocr": "ocr_vqa/images", "text": "textvqa/train_images"}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Two lists as step 1 of the official code writes them: JSON lines in files that are named .json."""
    for name, rows in (("ocr", OCR), ("text", TEXT)):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_texts_are_untouched_to_the_last_space_and_lists_of_several_sources_are_one_prompt_set(lists: Path):
    source = QuestionList(path=str(lists), image_root=str(lists), folders=FOLDERS)
    prompts = list(source.prompts())
    assert [prompt.question for prompt in prompts] == [row["text"] for row in (*OCR, *TEXT)]
    assert [prompt.image_path for prompt in prompts] == [
        "ocr_vqa/images/1.jpg",
        "ocr_vqa/images/1.jpg",
        "textvqa/train_images/a.jpg",
    ]
    assert [prompt.source for prompt in prompts] == ["ocr_vqa", "ocr_vqa", "textvqa"]
    assert [prompt.prompt_id for prompt in prompts] == ["ocr-0", "ocr-1", "text-0"]
    assert {prompt.error for prompt in prompts} == {None}


def test_a_list_alone_has_its_images_in_the_root_and_its_name_as_source(lists: Path):
    (prompt,) = QuestionList(path=str(lists / "text.json"), image_root=str(lists)).prompts()
    assert (prompt.image_path, prompt.source) == ("a.jpg", "text")


@pytest.mark.parametrize("row", [{"image": "1.jpg"}, {"text": "a?"}, {"image": 1, "text": "a?"}, ["1.jpg", "a?"], "a?"])
def test_a_row_without_image_or_text_is_an_error_of_its_own(lists: Path, row: Any):
    (lists / "ocr.json").write_text("\n".join(map(json.dumps, (row, OCR[0]))))
    first, second = QuestionList(path=str(lists / "ocr.json"), image_root=str(lists)).prompts()
    assert first.error == "row 0 of ocr: must be an object with the texts image and text"
    assert second.error is None


def test_a_folder_for_a_list_that_is_not_there_is_refused(lists: Path):
    with pytest.raises(InputError, match=r"folders 'orc': .* has no list of this name; it has ocr, text"):
        list(QuestionList(path=str(lists), image_root=str(lists), folders={"orc": "x"}).prompts())
    with pytest.raises(ConfigError, match="folders of ocr '/x': must be a folder below image_root"):
        QuestionList(path=str(lists), image_root=str(lists), folders={"ocr": "/x"})
    (lists / "none").mkdir()
    with pytest.raises(InputError, match="none: no list in this directory"):
        list(QuestionList(path=str(lists / "none"), image_root=str(lists)).prompts())
