"""JSON lists are read piece by piece, with the rows and the errors of `json.load`."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.errors import InputError
from seva_ray.sources import files
from seva_ray.sources.files import json_rows, json_value

ROWS: list[Any] = [
    {"id": "a", "value": 'text, with ] and } and \\ and " in it', "list": [[1, 2], [], {"b": None}]},
    12,
    -3.5e-3,
    True,
    None,
    [],
    {},
    "naïve \U0001f600",
    float("inf"),
]


def read(path: Path, text: str, lone: bool = False) -> list[Any]:
    path.write_text(text, encoding="utf-8")
    return list(json_rows(str(path), lone))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 2**20])
@pytest.mark.parametrize("indent", [None, 0, 3])
def test_a_list_has_its_rows_wherever_the_parts_that_are_read_end(
    tmp_path: Path, size: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "WINDOW_CHARS", size)
    for rows in (ROWS, ROWS[1:2], []):
        for ascii_only in (True, False):
            text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
            assert read(tmp_path / "rows.json", f"\ufeff \n{text}\n ") == rows


@pytest.mark.parametrize("size", [1, 5, 2**20])
@pytest.mark.parametrize(
    "text", ["[1, 2", "[1 2]", "[1,]", "[", "", "[1, {]", '["a]', "nothing", "[1, 2] 3", "[NaN, nul]", "[1],"]
)
def test_a_broken_list_gives_the_error_of_json_load(tmp_path: Path, text: str, size: int, monkeypatch):
    monkeypatch.setattr(files, "WINDOW_CHARS", size)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(InputError) as found:
        read(tmp_path / "rows.json", text)
    assert str(found.value).startswith(f"{tmp_path}/rows.json: is not valid JSON ({expected.value}); ")


def test_one_value_per_line_is_read_as_lines_and_a_lone_object_is_a_row(tmp_path: Path):
    assert read(tmp_path / "rows.json", '{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert read(tmp_path / "rows.json", '{"a": [1]}\n', lone=True) == [{"a": [1]}]
    with pytest.raises(InputError, match="must be a JSON list of rows, not dict"):
        read(tmp_path / "rows.json", '{"a": 1}')


def test_a_large_list_is_never_in_memory_as_a_whole(tmp_path: Path):
    path, number = tmp_path / "rows.json", 40_000
    row = {"id": "x", "conversations": [{"from": "human", "value": "what is this ? " * 10}] * 2}
    path.write_text(json.dumps([row] * number))
    assert path.stat().st_size > 10 * files.WINDOW_CHARS
    tracemalloc.start()
    assert sum(found == row for found in json_rows(str(path))) == number
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * files.WINDOW_CHARS


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": [1, "b"]}\n', b"  12 \r\n", b'\xef\xbb\xbf{"a": 1}', '{"a": "na\u00efve"}'.encode(), b"NaN",
        b'{"a": "\\ud83d"}',
        b'{"a": "\xed\xa0\xbd"}', '{"a": 1}'.encode("utf-16"), '["a"]'.encode("utf-32-be"), b'{"a": 1} 2', b"{broken",
        b'{"a": "\xff"}', b"\x0b12", b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_has_the_value_or_the_error_of_json_loads(line: bytes):
    def result(read: Any) -> str:
        try:
            return repr(read(line))
        except (ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"

    assert result(json_value) == result(json.loads)
