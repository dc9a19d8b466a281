"""Sources: what becomes a prompt, what becomes an error on its row, and what stops the job."""

import itertools
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.seeds import key_of
from seva_ray.sources import Folder, Hf, LlavaJson, Source, Table
from seva_ray.sources.files import json_rows
from seva_ray.sources.llava import clean_question
from seva_ray.sources.llava_rows import Images
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.images import load_image
from tests.real_photos import photo_path, write_photos

SHORTLY = "Answer the question using a single word or phrase."


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


def llava(photos: Path, **fields: Any) -> LlavaJson:
    return LlavaJson(**{"path": str(photos / "photos.json"), "image_root": str(photos / "images")} | fields)


def turns(*questions: str) -> list[dict[str, str]]:
    return [turn for text in questions for turn in ({"from": "human", "value": text}, {"from": "gpt", "value": "Yes."})]


def llava_rows(folder: Path, rows: Any, **fields: Any) -> list[Prompt]:
    """The prompts of a file with these rows; every row of gqa is asked for."""
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    fields = {"counts": {"gqa": 10}, "questions_per_image": {"gqa": 10}} | fields
    return list(LlavaJson(path=str(folder / "rows.json"), image_root=str(folder), **fields).prompts())


GOOD = {"id": "good", "image": "gqa/good.jpg", "conversations": turns("Is it good?")}


# The published instruction file


def test_every_question_of_a_real_file_comes_out_with_an_image_that_loads(photos: Path) -> None:
    source: Source = llava(
        photos,
        counts={"ocr_vqa": 4, "textvqa": 4, "gqa": 6},
        questions_per_image={"ocr_vqa": 9, "textvqa": 9, "gqa": 9},
    )
    prompts = list(source.prompts())
    assert Counter(prompt.source for prompt in prompts) == {"ocr_vqa": 12, "textvqa": 4, "gqa": 13}
    assert [prompt.error for prompt in prompts] == [None] * 29
    assert len({prompt.prompt_id for prompt in prompts}) == 29
    for prompt in prompts:
        image = load_image(path=prompt.image_path, data=prompt.image_bytes, image_root=source.image_root)
        assert image.mode == "RGB"
    images = [prompt.image_id for prompt in prompts]
    assert [image for image, _ in itertools.groupby(images)] == list(dict.fromkeys(images))  # an image's are adjacent
    assert table(prompts, PROMPT_SCHEMA).num_rows == 29


def test_a_turn_becomes_a_prompt_with_the_ids_of_its_row(photos: Path) -> None:
    prompts = llava(photos, counts={"ocr_vqa": 4}, questions_per_image={"ocr_vqa": 9}).prompts()
    rows = {prompt.prompt_id: prompt for prompt in prompts}
    assert rows["ocr_vqa/B000SEGMEN-1"] == Prompt(
        prompt_id="ocr_vqa/B000SEGMEN-1",
        image_id="ocr_vqa/page.jpg",
        question="What type of book is this?",
        source="ocr_vqa",
        image_path="ocr_vqa/page.jpg",
    )
    assert rows["ocr_vqa/1597753939-0"].question == "Who wrote this book?"  # the published file has numbers as ids too


def test_the_files_own_answers_belong_to_the_questions_before_them_and_to_the_ids_of_their_prompts(tmp_path: Path):
    def row(row_id: str, image: str, *turns: str) -> dict[str, Any]:
        talk = [{"from": turn[0], "value": turn[2:]} for turn in turns]
        names = {"h": "human", "g": "gpt"}
        return {
            "id": row_id, "image": image, "conversations": [turn | {"from": names[turn["from"]]} for turn in talk],
        }  # fmt: skip

    rows = [
        row("1", "gqa/a.jpg", "h <image>\nOne?", "g first ", "h Two?", "h Three?", "g third"),
        row("1", "gqa/b.jpg", "h Of another image?", "g other"),
        row("2", "gqa/c.jpg", "h Unanswered?"),
    ]
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    source = LlavaJson(
        path=str(tmp_path / "mix.json"), image_root=str(tmp_path), counts={"gqa": 3}, questions_per_image={"gqa": 9}
    )
    asked = {prompt.prompt_id: prompt.question for prompt in source.prompts()}
    answers = source.answers()
    assert {asked[prompt_id]: answer for prompt_id, answer in answers.items()} == {
        "One?": "first", "Three?": "third", "Of another image?": "other",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "value", "question"),
    [
        ("ocr_vqa", f"<image>\nWho wrote this book?\n{SHORTLY}", "Who wrote this book?"),
        ("ocr_vqa", f"<image>\nIs this a\nkids book? {SHORTLY}", "Is this akids book? "),
        ("gqa", f"<image>\nIs the cat facing left?\n{SHORTLY}", "Is the cat facing left?"),
        ("gqa", "What is it?\n<image>", "What is it?"),
        ("vg", "<image>\nPlease describe the region [0, 0, 1, 1].\n", "Please describe the region [0, 0, 1, 1]."),
        ("coco", f"<image>\nHow many birds?\n{SHORTLY}", "How many birds?"),
        (
            "textvqa",
            "<image>\nProvide a one-sentence caption for the provided image.\nReference OCR token: YAMAHA, 400",
            "Provide a one-sentence caption for the provided image.\nReference OCR token: YAMAHA, 400",
        ),
        ("textvqa", "<image>\nCaption it.\nReference OCR token: ", "Caption it.\nReference OCR token: "),
        ("textvqa", f"<image>\nWhat does it say?\n{SHORTLY}", f"What does it say?\n{SHORTLY}"),
    ],
)
def test_questions_are_cleaned_by_the_rule_of_their_source(source: str, value: str, question: str) -> None:
    assert clean_question(value, source) == question


def big_file(folder: Path, order: int) -> Path:
    """60 images of two sources, three questions each, in a shuffled order."""
    rows = [
        {
            "id": str(index),
            "image": f"{source}/{index}.jpg",
            "conversations": turns(*(f"{index}: {n}?" for n in range(3))),
        }
        for source in ("gqa", "vg")
        for index in range(30)
    ]
    random.Random(order).shuffle(rows)
    path = folder / f"rows-{order}.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_sample_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    samples = [
        list(
            LlavaJson(
                path=str(big_file(tmp_path, order)), image_root=str(tmp_path), counts={"gqa": 10, "vg": 5}
            ).prompts()
        )
        for order in (1, 2)
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 10 * 2 + 5 * 2


def test_a_smaller_sample_lies_inside_a_larger_one(tmp_path: Path) -> None:
    path = str(big_file(tmp_path, 1))

    def ids(count: int, questions: int, seed: int = 0) -> set[str]:
        source = LlavaJson(
            path=path,
            image_root=str(tmp_path),
            counts={"gqa": count},
            questions_per_image={"gqa": questions},
            seed=seed,
        )
        return {prompt.prompt_id for prompt in source.prompts()}

    assert len(ids(5, 1)) == 5
    assert ids(5, 1) < ids(5, 2) < ids(12, 2) < ids(12, 3) < ids(30, 3)
    assert len(ids(30, 3)) == 90
    assert ids(5, 1, seed=1) != ids(5, 1, seed=2)


def test_questions_of_an_image_are_drawn_evenly_and_keep_their_order(tmp_path: Path) -> None:
    path = str(big_file(tmp_path, 1))
    seen: Counter[str] = Counter()
    for seed in range(100):
        source = LlavaJson(path=path, image_root=str(tmp_path), counts={"gqa": 30}, seed=seed)
        by_image: dict[str, list[str]] = {}
        for prompt in source.prompts():
            by_image.setdefault(prompt.image_id, []).append(prompt.prompt_id.split("-")[1])
        for drawn in by_image.values():
            assert drawn == sorted(set(drawn))
            seen.update(drawn)
    assert all(abs(count - 2000) < 150 for count in seen.values())  # 2 of 3 turns, 3000 images; 150 is 5 sigma
    assert sum(seen.values()) == 6000


def test_images_are_drawn_evenly(tmp_path: Path) -> None:
    path = str(big_file(tmp_path, 1))
    seen: Counter[str] = Counter()
    for seed in range(300):
        source = LlavaJson(path=path, image_root=str(tmp_path), counts={"gqa": 10}, seed=seed)
        seen.update({prompt.image_id for prompt in source.prompts()})
    assert len(seen) == 30
    assert all(abs(count - 100) < 45 for count in seen.values())  # binomial(300, 1/3): sigma 8.2


def test_too_large_a_count_takes_all_and_says_so_in_one_line(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prompts = list(llava(photos, counts={"textvqa": 5000}).prompts())
    assert len(prompts) == 4
    assert [record.message for record in caplog.records] == [
        f"{photos}/photos.json: 4 images of textvqa, not the 5000 asked for"
    ]


def test_rows_that_are_not_asked_for_are_counted_in_the_log(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = llava(photos, counts={"ocr_vqa": 4})
        list(source.image_paths())
        list(source.prompts())
    assert [record.message for record in caplog.records] == [
        f"{photos}/photos.json: 15 rows, 1 text-only and 10 of other sources skipped, 0 unusable"
    ]


def test_prepare_parses_the_instruction_file_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def rows(uri: str) -> Iterator[Any]:
        read.append(uri)
        return json_rows(uri)

    monkeypatch.setattr("seva_ray.sources.llava.json_rows", rows)
    for number, fields in enumerate(({"counts": {"ocr_vqa": 4}}, {"folders": {"gqa": 2}}, {})):
        source = llava(photos, **fields)
        expected, read[:] = list(llava(photos, **fields).prompts()), []
        prepared = prepare(Prepare(), Store(str(tmp_path / f"runs{number}")), "photos", source)
        assert prepared.counts["num_prompts"] == len(expected)
        assert read == [source.path]
        assert list(source.prompts()) == expected, "a later call reads the file again"


@pytest.mark.parametrize("most", [0, 1, 7, 40, 1000])
def test_the_images_with_the_smallest_keys_are_drawn_with_all_their_rows(most: int) -> None:
    rows = [(f"{number * 7 % 40}.jpg", {"id": number}) for number in range(200)]
    images = Images(seed=3, most=most)
    for image, row in rows:
        images.add(image, row)
    expected = sorted({image for image, _ in rows}, key=lambda image: key_of(3, image, "image"))[: most or None]
    assert images.drawn() == expected
    assert images.rows == {image: [row for other, row in rows if other == image] for image in images.rows}


def test_rows_of_one_image_and_id_are_one_conversation(tmp_path: Path) -> None:
    """The published file has up to three rows of one id for a COCO image."""
    rows = [
        {"id": "7", "image": "gqa/7.jpg", "conversations": turns("b?", "c?")},
        {"id": "7", "image": "gqa/7.jpg", "conversations": turns("a?")},
        {"id": "8", "image": "gqa/7.jpg", "conversations": turns("d?")},
    ]
    expected = [("gqa/7-0", "a?"), ("gqa/7-1", "b?"), ("gqa/7-2", "c?"), ("gqa/8-0", "d?")]
    for ordered in (rows, rows[::-1]):
        prompts = llava_rows(tmp_path, ordered)
        assert [(prompt.prompt_id, prompt.question) for prompt in prompts] == expected
        assert {prompt.error for prompt in prompts} == {None}


def test_a_row_that_is_there_twice_is_an_error_the_second_time(tmp_path: Path) -> None:
    prompts = llava_rows(tmp_path, [GOOD, GOOD])
    assert [(prompt.prompt_id, prompt.error) for prompt in prompts] == [
        ("gqa/good-0", None),
        ("gqa/good#2", "the file has this row a second time"),
    ]


def test_an_id_that_two_images_share_is_an_error_on_the_second(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"image": "gqa/other.jpg"}, GOOD | {"image": "gqa/third.jpg"}]
    for ordered in (rows, rows[::-1]):
        prompts = llava_rows(tmp_path, ordered)
        assert [prompt.prompt_id for prompt in prompts] == ["gqa/good-0", "gqa/good-0#2", "gqa/good-0#3"]
        assert [prompt.error for prompt in prompts] == [None] + [
            "prompt_id 'gqa/good-0' is taken by an earlier row"
        ] * 2


def test_an_id_may_be_used_by_two_sources(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"image": "vg/good.jpg"}]
    prompts = llava_rows(tmp_path, rows, counts={"gqa": 1, "vg": 1}, questions_per_image={"gqa": 1, "vg": 1})
    assert [(prompt.prompt_id, prompt.error) for prompt in prompts] == [("gqa/good-0", None), ("vg/good-0", None)]


@pytest.mark.parametrize(
    ("row", "prompt_id", "error"),
    [
        (GOOD | {"conversations": turns(f"<image>\n{SHORTLY}")}, "gqa/good-0", "the question is empty"),
        (GOOD | {"conversations": turns("<image> ")}, "gqa/good-0", "the question is empty"),
        (GOOD | {"conversations": turns("\ud800?")}, "gqa/good-0", "question is not valid Unicode"),
        (GOOD | {"image": "sam/1.jpg"}, "row-1", "row 1: field image: unknown source 'sam', must be one of ocr_vqa, "),
        (GOOD | {"image": None}, "row-1", "row 1: field image: must be a path"),
        (GOOD | {"image": ""}, "row-1", "row 1: field image: must be a path"),
        (GOOD | {"image": ["gqa/1.jpg", "gqa/2.jpg"]}, "row-1", "row 1: field image: must be a path"),
        (GOOD | {"id": None}, "row-1", "row 1: field id: must be a text or a number"),
        (GOOD | {"id": True}, "row-1", "row 1: field id: must be a text or a number"),
        ({"image": "gqa/1.jpg", "conversations": turns("a?")}, "row-1", "row 1: field id: must be a text or a number"),
        (GOOD | {"conversations": None}, "row-1", "row 1: field conversations: must be a list of {from, value}"),
        (GOOD | {"conversations": ["a?"]}, "row-1", "row 1: field conversations: must be a list of {from, value}"),
        (GOOD | {"conversations": [{"from": "human", "value": 1}]}, "row-1", "row 1: field conversations: must be"),
        (GOOD | {"conversations": []}, "row-1", "row 1: field conversations: has no turn of a human"),
        (["gqa/1.jpg", "a?"], "row-1", "row 1: must be an object with id, image and conversations"),
        (None, "row-1", "row 1: must be an object with id, image and conversations"),
    ],
)
def test_a_bad_row_becomes_a_prompt_with_an_error_and_stops_nothing(
    tmp_path: Path, row: Any, prompt_id: str, error: str
) -> None:
    other = {"id": "other", "image": "gqa/other.jpg", "conversations": turns("Is it other?")}
    prompts = {prompt.prompt_id: prompt for prompt in llava_rows(tmp_path, [other, row])}
    assert prompts.keys() == {"gqa/other-0", prompt_id}
    assert prompts["gqa/other-0"].error is None
    assert (prompts[prompt_id].error or "").startswith(error)
    table(prompts.values(), PROMPT_SCHEMA)


def test_a_placeholder_that_the_clean_up_leaves_is_an_error(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "textvqa/a.jpg", "conversations": turns("Caption it.\n<image>")}]
    (prompt,) = llava_rows(tmp_path, rows, counts={"textvqa": 1}, questions_per_image={"textvqa": 1})
    assert prompt.error == "the question contains the placeholder <image>"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        ("", "Expecting value: line 1 column 1"),
        ('[{"id": 1', "line 1 column 10 (char 9)); the file ends too early: is it a whole copy?"),
        ("a.jpg What?", "it must be a JSON list, or JSON lines"),
        ('{"rows": []}', "must be a JSON list of rows, not dict"),
        ("[" * 200_000, "recursion"),
        ("[]", "no row of source gqa; it has none of the sources we know"),
        (json.dumps([GOOD | {"image": "vg/1.jpg"}]), "no row of source gqa; it has vg"),
    ],
)
def test_a_file_that_is_no_instruction_file_stops_the_job_in_one_line(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "rows.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        list(LlavaJson(path=str(path), image_root=str(tmp_path), counts={"gqa": 1}).prompts())
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


# An instruction file of one's own


OWN = [
    {"id": 1, "image": "imgs/0.png", "conversations": turns("<image>\nWhat is it?", "Why?\nSay it.")},
    {"id": 2, "image": "imgs/1.png", "conversations": turns(f"Who?\n{SHORTLY}")},
    {"id": 3, "image": "sam/images/2.png", "conversations": turns("Where?")},
    {"id": 4, "image": "3.png", "conversations": turns("When?")},
    {"id": 5, "conversations": turns("Only text?")},
]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_file_with_folders_of_ones_own_is_read_whole_with_each_folder_as_a_source(tmp_path: Path, suffix: str):
    path = tmp_path / f"mine.{suffix}"
    path.write_text(json.dumps(OWN) if suffix == "json" else "\n".join(map(json.dumps, OWN)))
    prompts = {prompt.prompt_id: prompt for prompt in LlavaJson(path=str(path), image_root=str(tmp_path)).prompts()}
    assert {prompt.error for prompt in prompts.values()} == {None}
    assert {name: prompt.question for name, prompt in prompts.items()} == {
        "imgs/1-0": "What is it?",
        "imgs/1-1": "Why?\nSay it.",
        "imgs/2-0": f"Who?\n{SHORTLY}",
        "sam/3-0": "Where?",
        "images/4-0": "When?",
    }
    assert prompts["sam/3-0"].image_path == "sam/images/2.png"


def test_folders_take_as_many_images_of_each_folder_as_are_asked_for(tmp_path: Path):
    rows = [*OWN, GOOD, *(GOOD | {"id": f"s{n}", "image": f"{tmp_path}/sam/{n}.png"} for n in range(8))]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows))

    def taken(**fields: Any) -> Counter[str]:
        prompts = list(LlavaJson(path=str(path), image_root=str(tmp_path), **fields).prompts())
        assert {prompt.error for prompt in prompts} == {None}
        assert not any((prompt.image_path or "").startswith("/") for prompt in prompts)
        return Counter(prompt.source for prompt in prompts)

    assert taken(folders={"sam": 3}) == {"sam": 3}
    assert taken(folders={"sam": 0, "gqa": 0}) == {"sam": 9, "gqa": 1}
    assert taken(folders={"imgs": 1}, questions_per_image={"imgs": 1}) == {"imgs": 1}
    with pytest.raises(InputError, match=r"no row of source wikiart; it has gqa, images, imgs, sam$"):
        taken(folders={"wikiart": 5})
    with pytest.raises(InputError, match=r"no row of source ocr_vqa; it has gqa; --source.folders takes rows of any"):
        taken()
    with pytest.raises(ConfigError, match="folders of sam -1: must be a whole number from 0"):
        LlavaJson(path=str(path), image_root=str(tmp_path), folders={"sam": -1})


def test_a_line_that_is_no_json_is_an_error_of_its_row(tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(OWN[0]) + "\n{nonsense\n")
    *good, bad = LlavaJson(path=str(tmp_path / "mine.jsonl"), image_root=str(tmp_path)).prompts()
    assert [prompt.error for prompt in good] == [None, None]
    assert (bad.error or "").startswith("row 1: not JSON (")


def test_a_missing_image_root_stops_the_job(photos: Path) -> None:
    with pytest.raises(InputError, match=r"image_root .*/nowhere: no such directory"):
        list(llava(photos, image_root=str(photos / "nowhere")).prompts())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": {"sam": 1}}, "counts 'sam': must be one of ocr_vqa, textvqa, gqa, vg, coco"),
        ({"counts": {"gqa": -1}}, "counts of gqa -1: must be a whole number from 0"),
        ({"counts": {"gqa": True}}, "counts of gqa True: must be a whole number from 0"),
        ({"counts": {"gqa": 0}}, "counts {'gqa': 0}: asks for no image"),
        ({"questions_per_image": {"gqa": 0}}, "questions_per_image of gqa 0: must be a whole number from 1"),
        ({"questions_per_image": {"ocr_vqa": 1}}, "questions_per_image {'ocr_vqa': 1}: has no number for textvqa"),
        ({"path": ""}, "path '': must not be empty"),
        ({"image_root": ""}, "image_root '': must not be empty"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_when_built(photos: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        llava(photos, **fields)
    assert str(caught.value) == message


def test_the_defaults_are_those_of_the_paper() -> None:
    source = LlavaJson(path="a.json", image_root="images")
    assert source.wanted == {"ocr_vqa": 4000, "textvqa": 8000}
    assert [source.questions_per_image[name] for name in source.wanted] == [2, 1]
    assert source.image_root == os.path.join(os.getcwd(), "images")  # workers run in other directories


def test_sources_are_command_lines_too() -> None:
    line = ["--path", "s3://b/a.json", "--image-root", "s3://b/images", "--counts.gqa", "5", "--counts.ocr-vqa", "0"]
    assert tyro.cli(LlavaJson, args=line).wanted == {"textvqa": 8000, "gqa": 5}
    assert tyro.cli(Folder, args=["--path", "a", "--questions", "b?", "c?"]).questions == ("b?", "c?")
    assert tyro.cli(Table, args=["--path", "a.parquet"]).image_root is None


# Tables


def write_parquet(path: Path | str, columns: dict[str, Any], row_group_size: int = 2) -> str:
    pq.write_table(pa.table(columns), str(path), row_group_size=row_group_size)
    return str(path)


def test_a_hugging_face_table_with_images_inside_is_read(tmp_path: Path) -> None:
    cat, flower = photo_path("skimage/chelsea.png").read_bytes(), photo_path("sklearn/flower.jpg").read_bytes()
    images = [{"bytes": data, "path": name} for data, name in ((cat, "cat.png"), (cat, "cat.png"), (flower, None))]
    path = write_parquet(
        tmp_path / "a.parquet", {"question": ["<image>\nWhat is it?", "Who?", "Why?"], "image": images}
    )
    source: Source = Table(path=path)
    prompts = list(source.prompts())
    assert [prompt.prompt_id for prompt in prompts] == ["0", "1", "2"]
    assert [prompt.question for prompt in prompts] == ["What is it?", "Who?", "Why?"]
    assert [prompt.image_bytes for prompt in prompts] == [cat, cat, flower]
    assert [prompt.image_path for prompt in prompts] == [None] * 3
    assert prompts[0].image_id == prompts[1].image_id != prompts[2].image_id
    assert load_image(path=None, data=prompts[2].image_bytes, image_root=source.image_root).size == (640, 427)


def test_a_table_of_paths_with_columns_of_other_names_is_read(photos: Path, tmp_path: Path) -> None:
    columns = {
        "text": ["What is it?", "Who?"],
        "file": ["gqa/cat.png", "gqa/camera.png"],
        "number": [11, 12],
        "picture": ["cat", "man"],
        "set": ["animals", "people"],
        "unused": [[1], [2]],
    }
    table_of_paths = Table(
        path=write_parquet(tmp_path / "a.parquet", columns),
        image_root=str(photos / "images"),
        question_column="text",
        image_column="file",
        prompt_id_column="number",
        image_id_column="picture",
        source_column="set",
    )
    first, second = table_of_paths.prompts()
    assert first == Prompt(
        prompt_id="11", image_id="cat", question="What is it?", source="animals", image_path="gqa/cat.png"
    )
    assert (second.prompt_id, second.source) == ("12", "people")
    assert load_image(path=first.image_path, data=None, image_root=table_of_paths.image_root).size == (451, 300)


def test_bytes_in_a_plain_column_are_an_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"question": ["a?"], "image": [b"GIF89a"]})
    (prompt,) = Table(path=path).prompts()
    assert (prompt.image_bytes, prompt.source, prompt.error) == (b"GIF89a", "table", None)


def test_ids_of_a_directory_stay_when_a_shard_is_added(tmp_path: Path) -> None:
    for name in ("b.parquet", "inner/a.parquet", "_hidden.parquet", ".part.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / name, {"question": ["a?", "b?", "c?"], "image": [b"1", b"2", b"3"]})
    (tmp_path / "notes.txt").write_text("no shard")
    before = [prompt.prompt_id for prompt in Table(path=str(tmp_path)).prompts()]
    assert before == [f"{name}-{row}" for name in ("b.parquet", "inner/a.parquet") for row in range(3)]
    write_parquet(tmp_path / "a.parquet", {"question": ["z?"], "image": [b"0"]})
    assert [prompt.prompt_id for prompt in Table(path=str(tmp_path)).prompts()] == ["a.parquet-0", *before]


def test_json_lines_are_read_and_each_bad_line_is_an_error_of_its_own(tmp_path: Path) -> None:
    lines = [
        b'{"question": "a?", "image": "a.jpg", "id": "x"}',
        b"not json",
        b'["a?", "a.jpg"]',
        b"",
        b'{"question": "", "image": "a.jpg", "id": "y"}',
        b'{"question": "a?", "id": "z"}',
        b'{"question": "a?", "image": {"path": "b.jpg", "bytes": null}, "id": 5}',
        b'{"question": "a?", "image": "a.jpg"}',
        b'{"question": "a?", "image": "a.jpg", "id": "x"}',
        b'{"question": "\xff?", "image": "a.jpg", "id": "w"}',
        b'{"question": " <image> ", "image": "a.jpg", "id": "v"}',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = Table(path=str(tmp_path / "a.jsonl"), image_root=str(tmp_path), prompt_id_column="id")
    rows = [(prompt.prompt_id, prompt.image_path, prompt.error) for prompt in source.prompts()]
    assert rows[:8] == [
        ("x", "a.jpg", None),
        ("1", None, "row 1: not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("2", None, "row 2: must be an object"),
        ("y", None, "row 3: column 'question': must be a text, not empty"),
        ("z", None, "row 4: no column 'image'; the row has question, id"),
        ("5", "b.jpg", None),
        ("6", None, "row 6: no column 'id'; the row has question, image"),
        ("x#2", "a.jpg", "prompt_id 'x' is taken by an earlier row"),
    ]
    assert (rows[8][0], rows[8][2] or "") == ("8", rows[8][2])
    assert "not JSON" in (rows[8][2] or "")
    assert rows[9] == ("v", "a.jpg", "the question is empty")
    assert "not JSON" in (rows[10][2] or "")
    assert len(rows) == 11


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"query": ["a?"], "image": [b"1"]}, "no column 'question'; it has query, image"),
        ({"question": ["a?"], "img": [b"1"]}, "no column 'image'; it has question, img"),
        ({"question": ["a?"], "image": ["a.jpg"]}, "column 'image' holds paths, but image_root is not given"),
        ({"question": ["a?"], "image": [[b"1"]]}, "column 'image' is list<element: binary>; must be paths, bytes or"),
    ],
)
def test_a_table_without_the_columns_stops_the_job(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError) as caught:
        list(Table(path=path).prompts())
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_what_is_no_table_stops_the_job_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")
    (tmp_path / "lines.jsonl").write_text("{}")
    (tmp_path / "a.csv").write_text("question,image\n")
    good = Path(write_parquet(tmp_path / "cut.parquet", {"question": ["a?"] * 9, "image": [b"1"] * 9})).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(good[:-20])
    (tmp_path / "empty").mkdir()
    for path, reason in {
        "none.parquet": "no such file",
        "text.parquet": "Parquet",
        "cut.parquet": "Parquet",
        "lines.jsonl": "image_root is not given",
        "a.csv": "must be a .parquet or .jsonl file, or a directory of them; source:hf reads CSV",
        "empty": "no .parquet or .jsonl file in this directory",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            list(Table(path=str(tmp_path / path)).prompts())
        assert str(tmp_path / path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"image_root .*/nowhere: no such directory"):
        list(Table(path=str(tmp_path / "lines.jsonl"), image_root=str(tmp_path / "nowhere")).prompts())
    with pytest.raises(InputError, match="nosuch"):
        list(Table(path="nosuch://a.parquet").prompts())


def test_a_table_is_read_as_it_is_consumed(tmp_path: Path) -> None:
    """The rows before a damaged page come out before the error does."""
    path = write_parquet(
        tmp_path / "a.parquet", {"question": ["a?"] * 1000, "image": [os.urandom(64) for _ in range(1000)]}, 100
    )
    data = bytearray(Path(path).read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 8000] = b"\xff" * 8000
    Path(path).write_bytes(data)
    prompts = Table(path=path).prompts()
    with pytest.raises(InputError, match=r"a\.parquet"):
        for count, _ in enumerate(prompts):  # noqa: B007
            pass
    assert 300 < count < 900


def test_a_table_in_a_store_is_read() -> None:
    memory = fsspec.filesystem("memory")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"question": ["a?"], "image": [b"1"]}), sink)
    memory.pipe_file("/tables/inner/a.parquet", sink.getvalue().to_pybytes())
    memory.pipe_file("/lines/a.jsonl", b'{"question": "a?", "image": "a.jpg"}')
    memory.pipe_file("/pictures/a.jpg", b"1")
    for path in ("memory://tables", "memory://tables/inner/a.parquet"):
        (prompt,) = Table(path=path).prompts()
        assert prompt.image_bytes == b"1"
    (prompt,) = Table(path="memory://lines/a.jsonl", image_root="memory://pictures").prompts()
    assert prompt.image_path == "a.jpg"


# Folders


def test_a_folder_asks_every_question_about_every_image_in_the_order_of_names(photos: Path) -> None:
    source: Source = Folder(path=str(photos / "images"), questions=("What is it?", "Who?"))
    prompts = list(source.prompts())
    assert len(prompts) == 28
    assert prompts[1] == Prompt(
        prompt_id="gqa/camera.png-1",
        image_id="gqa/camera.png",
        question="Who?",
        source="folder",
        image_path="gqa/camera.png",
    )
    names = [prompt.image_path for prompt in prompts]
    assert names == sorted(names, key=str)
    assert all(load_image(path=name, data=None, image_root=source.image_root).mode == "RGB" for name in names)


def test_only_image_files_that_are_not_hidden_are_taken(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.Png", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [prompt.image_path for prompt in Folder(path=str(tmp_path)).prompts()] == ["a/c.Png", "b.JPG"]
    assert [prompt.image_path for prompt in Folder(path=str(tmp_path), suffixes=(".txt",)).prompts()] == ["notes.txt"]


def test_links_to_folders_are_followed_once_and_never_back_up(tmp_path: Path) -> None:
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"1")
    (tmp_path / "elsewhere" / "a.jsonl").write_text('{"question": "a?", "image": "a.jpg"}')
    (tmp_path / "data" / "coco").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "vg").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "inner" / "above").symlink_to(tmp_path / "data")
    data = str(tmp_path / "data")
    assert [prompt.image_path for prompt in Folder(path=data).prompts()] == ["coco/a.jpg", "vg/a.jpg"]
    prompts = list(Table(path=data, image_root=data).prompts())
    assert [prompt.prompt_id for prompt in prompts] == ["coco/a.jsonl-0", "vg/a.jsonl-0"]


def test_hidden_files_are_no_part_of_a_table(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "__MACOSX/a.jsonl", "_a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"question": "a?", "image": "a.jpg"}')
    source = Table(path=str(tmp_path), image_root=str(tmp_path))
    assert [prompt.prompt_id for prompt in source.prompts()] == ["a.jsonl-0"]


def test_an_absolute_image_path_lies_in_an_image_root_that_leads_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "link.png").symlink_to(tmp_path / "blob")
    for image_root, image in (("data", "disk"), ("disk", "data")):
        rows = [{"question": "a?", "image": str(tmp_path / image / name)} for name in ("link.png", "../b.png")]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        inside, outside = Hf(path=str(tmp_path / "rows.json"), image_root=str(tmp_path / image_root)).prompts()
        assert (inside.image_path, inside.error) == ("link.png", None)
        assert "is outside" in str(outside.error)


def test_a_file_name_that_is_no_text_is_an_error_on_its_row(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"1")
    prompts = list(Folder(path=str(tmp_path)).prompts())
    assert [prompt.error for prompt in prompts] == [None, "prompt_id is not valid Unicode"]
    table(prompts, PROMPT_SCHEMA)


def test_a_folder_in_a_store_is_read() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b.jpg", "inner/a.jpg", "inner/notes.txt"):
        memory.pipe_file(f"/folder/{name}", b"1")
    assert [prompt.image_path for prompt in Folder(path="memory://folder/").prompts()] == ["b.jpg", "inner/a.jpg"]


def test_a_folder_without_images_or_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: no image in this directory"):
        list(Folder(path=str(tmp_path)).prompts())
    with pytest.raises(InputError, match="no such directory"):
        list(Folder(path=str(tmp_path / "none")).prompts())
    (tmp_path / "a.jpg").write_bytes(b"1")
    with pytest.raises(InputError, match=r"a\.jpg: is a file, and must be a directory of images"):
        list(Folder(path=str(tmp_path / "a.jpg")).prompts())
    for fields, reason in (
        ({"questions": ()}, "questions"),
        ({"questions": ("a?", " ")}, "one of them is empty"),
        ({"suffixes": ("JPG",)}, "suffixes 'JPG'"),
        ({"source": ""}, "source ''"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Folder(path=str(tmp_path), **fields)
