"""Rows in the forms that people have are read as they are meant, or refused in one line that says what helps."""

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.sources import Folder, Hf, LlavaJson

Q = "Is it red?"


def picture(form: str = "PNG", side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 0, 0)).save(file, form)
    return file.getvalue()


PNG = picture()
INSIDE = {"bytes": PNG, "path": None}
IMAGE = base64.b64encode(PNG).decode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.png").write_bytes(PNG)
    return tmp_path


def read(place: Path, name: str, content: bytes, **more: Any) -> list[Any]:
    (place / name).write_bytes(content)
    return found(Hf(path=str(place / name), image_root=str(place), **more))


def found(source: Hf) -> list[Any]:
    """Questions, each with the image's path or True for bytes; for a row that cannot be used, its error."""
    return [item.error or (item.question, item.image_path or item.image_bytes == PNG) for item in source.prompts()]


def lines(*rows: Any) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]


GOOD = [(Q, "p/0.png")]
ROW = {"question": Q, "image": "p/0.png"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Question": Q, " Image ": "p/0.png"}, GOOD),
        ({"question": Q, "filename": "p/0.png"}, GOOD),
        ({"question": Q, "image": "p\\0.png"}, GOOD),
        ({"question": 7, "image": "p/0.png"}, [("7", "p/0.png")]),
        ({"questions": [Q, "And?"], "image": "p/0.png"}, [*GOOD, ("And?", "p/0.png")]),
        ({"question": Q, "image": IMAGE}, [(Q, True)]),
        ({"question": Q, "image_1": "p/0.png", "image_2": None}, GOOD),
        ({"texts": [{"user": Q, "assistant": "Yes."}], "images": ["p/0.png"]}, GOOD),
        ({"qa_pairs": [{"question": Q, "answer": "Yes."}], "image": "p/0.png"}, GOOD),
        ({"messages": json.dumps(user(f"<image>{Q}")), "images": json.dumps(["p/0.png"])}, GOOD),
        ({"messages": user([{"type": "image", "image": "p/0.png"}, {"type": "text", "text": Q}])}, GOOD),
        ({"question": f"<|vision_start|><|image_pad|><|vision_end|>{Q}", "image": "p/0.png"}, GOOD),
        ({"query": f"<img>p/0.png</img>{Q}", "images": ["p/0.png"]}, GOOD),
        ({"prompt": "[x] is it?", "image": "p/0.png"}, [("[x] is it?", "p/0.png")]),
        ({"question": Q, "image_url": "p/0.png"}, GOOD),
        ({"question": Q, "image_base64": IMAGE}, [(Q, True)]),
        ({"question": Q, "image_url": "p/1.png", "image_path": "p/0.png"}, GOOD),
        ({"question": Q, "image": {"base64": IMAGE}}, [(Q, True)]),
        ({"prompt": user(f"<image>{Q}"), "images": [{"image": "p/0.png"}]}, GOOD),  # verl
        ({"messages": user([{"type": "image", "source": {"type": "base64", "data": IMAGE}}, Q])}, [(Q, True)]),
        ({"conversations": [{"from": "user", "value": f"Picture 1: <img>p/0.png</img>\n{Q}"}]}, GOOD),  # Qwen-VL
        ({"messages": [{"role": "user", "text": Q}], "image": "p/0.png"}, GOOD),
    ],
)
def test_a_row_is_read_as_it_is_meant(place: Path, row: dict[str, Any], expected: list[Any]):
    assert read(place, "rows.jsonl", lines(row)) == expected


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question": None, "image": "p/0.png"}, "the row has image; empty in this row: question; name yours with "),
        ({"question": "", "image": "p/0.png"}, "empty in this row: question"),
        ({"question": Q, "image": None}, "empty in this row: image"),
        ({"question": True, "image": "p/0.png"}, "column 'question': must be a text, not bool"),
        ({"question": {"a": 1}, "image": "p/0.png"}, "column 'question': must be a text, not dict"),
        ({"question": float("nan"), "image": "p/0.png"}, "column 'question': must be a text, not float"),
        ({"question": Q, "image": 5}, "the image is neither a path, nor bytes, nor a struct of them"),
        ({"question": Q, "image_1": "a.png", "image_2": "b.png"}, "has 2 images; rows with one image are read"),
        ({"contents": [{"parts": [{"text": Q}]}], "image": "p/0.png"}, "the row has contents, image; name yours with"),
    ],
)
def test_a_row_that_cannot_be_used_says_what_it_has_and_what_helps(place: Path, row: Any, error: str):
    (line,) = read(place, "rows.jsonl", lines(row))
    assert line.startswith("row 0: ")
    assert error in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("A.JSON", json.dumps([ROW]).encode()),
        ("a.jsonl.gz", gzip.compress(lines(ROW), mtime=0)),
        ("a.json.bz2", bz2.compress(json.dumps([ROW]).encode())),
        ("a.CSV.xz", lzma.compress(f"question,image\n{Q},p/0.png\n".encode())),
        ("a.json", json.dumps({"info": {}, "data": [ROW]}).encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + lines(ROW) + b"\r\n"),
        ("a.csv", f"question;image\r\n{Q};p/0.png\r\n".encode()),
        ("b.csv", f"question\timage\n{Q}\tp/0.png\n".encode()),
        ("c.csv", f"question, image\n{Q}, p/0.png\n".encode()),
        ("d.csv", f'image,question\n"p/0.png","{Q}"\n'.encode("utf-8-sig")),
    ],
)
def test_a_text_file_is_read_with_any_suffix_compression_separator_and_mark(place: Path, name: str, content: bytes):
    assert read(place, name, content) == GOOD


def test_a_table_of_texts_may_hold_whole_images(place: Path):
    large = base64.b64encode(picture("BMP", 256)).decode()
    assert len(large) > csv.field_size_limit() or len(large) > 131_072
    assert read(place, "a.tsv", f"index\timage\tquestion\n0\t{large}\t{Q}\n".encode()) == [(Q, False)]
    (prompt,) = Hf(path=str(place / "a.tsv")).prompts()
    assert prompt.image_bytes == picture("BMP", 256)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", lines(ROW, ROW).decode().encode("utf-16"), "is not UTF-8 text (a zero byte, as in UTF-16 at byte "),
        ("a.json", json.dumps([ROW]).encode("utf-16"), "is not UTF-8 text (invalid start byte at byte 0); save it as"),
        ("a.csv", f"question,image\nqu\xea?{Q},p/0.png\n".encode("latin-1"), "is not UTF-8 text (invalid continuation"),
        ("a.jsonl.gz", b"hello", "Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(lines(ROW), mtime=0)[:-9],
            "Compressed file ended before the end-of-stream marker",
        ),
        (
            "a.json",
            json.dumps({"x": ROW, "y": ROW}).encode(),
            "must be a JSON list of rows, not dict (its fields: x, y",
        ),
        ("a.tar", b"\0" * 100, "a.tar: "),
        ("a.zip", b"PK", "must be a directory, or a file with one of the suffixes .parquet, .arrow, .tar, .json, "),
    ],
)
def test_a_broken_file_is_refused_in_one_line(place: Path, name: str, content: bytes, line: str):
    with pytest.raises(InputError) as caught:
        read(place, name, content)
    assert line in str(caught.value)
    assert str(caught.value).startswith(str(place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["shard-*.tar", "shard-{000000..000099}.tar"])
def test_a_pattern_of_files_is_refused_with_what_is_read_instead(place: Path, pattern: str):
    with pytest.raises(InputError, match="patterns are not read; give the directory that holds the files"):
        found(Hf(path=str(place / pattern)))


def test_a_path_of_pathlib_is_as_good_as_a_text(place: Path):
    rows: Any = place / "rows.jsonl"
    rows.write_bytes(lines(ROW))
    assert found(Hf(path=rows, image_root=rows.parent)) == GOOD
    assert [item.image_path for item in Folder(path=rows.parent).prompts()] == ["p/0.png"]
    assert Store(rows.parent) == Store(str(place))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"question": [Q], "images": [[PNG]]}, [(Q, True)]),
        ({"question": [Q], "images": [[INSIDE, INSIDE]]}, ["row 0: has 2 images; rows with one image are read"]),
        ({"question": pa.array([Q]).dictionary_encode(), "image": ["p/0.png"]}, GOOD),
        ({"messages": [user([{"type": "image", "text": None}, {"type": "text", "text": Q}])[:1]], "images": [[INSIDE]]},
         [(Q, True)]),
        ({"question": pa.array([], pa.string()), "image": pa.array([], pa.binary())}, []),
    ],
)  # fmt: skip
def test_parquet_holds_images_in_many_ways(place: Path, columns: dict[str, Any], expected: list[Any]):
    pq.write_table(pa.table(columns), place / "ROWS.PARQUET")
    assert found(Hf(path=str(place / "ROWS.PARQUET"), image_root=str(place))) == expected


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_a_tar_may_be_compressed_and_have_suffixes_in_capitals(place: Path, name: str):
    with tarfile.open(place / name, "w" if name == "a.tar" else "w:gz") as file:
        for end, content in (("PNG", PNG), ("txt", Q.encode())):
            info = tarfile.TarInfo(f"000.{end}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert found(Hf(path=str(place / name), columns={"question": "txt"})) == [(Q, True)]
    (place / name).write_bytes((place / name).read_bytes()[:60])
    with pytest.raises(InputError, match=name):
        found(Hf(path=str(place / name), columns={"question": "txt"}))


def test_a_directory_of_text_files_is_read_as_they_are_and_by_its_split(place: Path):
    (place / "set.csv").mkdir()  # as Spark names a directory
    (place / "set.csv" / "train-0.csv").write_text("question,image\n007,p/0.png\n")
    (place / "set.csv" / "test.csv").write_text("question,image\nother,p/0.png\n")
    source = Hf(path=str(place / "set.csv"), image_root=str(place))
    assert found(source) == [("007", "p/0.png")]
    with pytest.raises(InputError, match=r"no split 'dev'; it has train, test \(--source\.split\)"):
        found(Hf(path=str(place / "set.csv"), split="dev"))
    (place / "x" / "a").mkdir(parents=True)
    (place / "x" / "x.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match="Dataset scripts are no longer supported"):
        found(Hf(path=str(place / "x")))


def test_a_folder_says_what_it_leaves_out(place: Path, caplog: pytest.LogCaptureFixture):
    (place / "p" / "a.HEIC").write_bytes(b"x")
    (place / "p" / "B.JPG").write_bytes(picture("JPEG"))
    assert [prompt.image_path for prompt in Folder(path=str(place / "p")).prompts()] == ["0.png", "B.JPG"]
    assert "left out 1 of .heic; save them as JPEG or PNG" in caplog.text
    (place / "h").mkdir()
    (place / "h" / "a.avif").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image in this directory \(.*\); it has 1 of \.avif"):
        list(Folder(path=str(place / "h")).prompts())


def test_a_llava_file_without_usable_rows_says_why(place: Path):
    turns = [{"from": "human", "value": f"<image>\n{Q}"}]
    (place / "a.json").write_text(json.dumps([{"image": "p/0.png", "conversations": turns}]))
    with pytest.raises(InputError, match="1 rows cannot be used, such as row 0: field id: must be a text or a number"):
        list(LlavaJson(path=str(place / "a.json"), image_root=str(place)).prompts())
    (place / "a.json.gz").write_bytes(
        gzip.compress(json.dumps([{"id": 1, "image": "p/0.png", "conversations": turns}]).encode())
    )
    (prompt,) = LlavaJson(path=str(place / "a.json.gz"), image_root=str(place)).prompts()
    assert (prompt.question, prompt.image_path) == (Q, "p/0.png")
