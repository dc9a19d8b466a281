"""Tables: what is read once more before the prompts, and what is not held in memory."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seva_ray.core.seeds import key_of
from seva_ray.sources import base, table
from seva_ray.sources.table import Table
from seva_ray.stages import image_digests
from seva_ray.stages.image_digests import sample_of

LINES = [
    '{"question": "what ?", "image": "a.png", "id": "x", "photo": 1, "set": "s"}',
    '{"question": "<image> why ?", "image": "b.png", "id": "x", "photo": 2, "set": "s"}',
    '{"question": "", "image": "c.png", "id": "y", "photo": 2, "set": "s"}',
    '{"question": "  ", "image": "d.png", "id": "z", "photo": 2, "set": "s"}',
    '{"question": "no image", "id": "v", "photo": 2, "set": "s"}',
    '{"question": 5, "image": "e.png", "id": 7, "photo": 2, "set": ""}',
    '{"question": "how ?", "image": "\\ud83d.png", "id": "\\ud83d", "photo": 2, "set": "s"}',
    '{"question": "\\ud83d", "image": "naïve.png", "id": "w", "photo": null, "set": "s"}',
    '{"question": "how ?", "image": {"path": "f.png", "bytes": null}, "id": null, "photo": 2, "set": "s"}',
    "[1, 2]",
    "{broken",
    "",
    '{"question": "the last ?", "image": "a.png", "id": "u", "photo": 2, "set": "s"}',
]
COLUMNS = {"prompt_id_column": "id", "image_id_column": "photo", "source_column": "set"}


def lines(tmp_path: Path, rows: list[str], **columns: str) -> Table:
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    return Table(path=str(tmp_path / "rows.jsonl"), image_root=str(tmp_path), **columns)


@pytest.mark.parametrize("columns", [{}, *({name: column} for name, column in COLUMNS.items()), COLUMNS])
def test_the_image_paths_alone_are_those_of_the_prompts_whatever_the_rows_hold(tmp_path: Path, columns: dict[str, str]):
    source = lines(tmp_path, LINES, **columns)
    paths = [prompt.image_path for prompt in source.prompts()]
    assert list(source.image_paths()) == paths
    assert {"a.png", None} < set(paths)


@pytest.mark.parametrize("ids", [["a", "b", "c"], ["a", "b", "a", "a#2"]])
def test_a_large_table_that_names_its_ids_gets_those_that_a_small_one_gets(
    tmp_path: Path, ids: list[str], monkeypatch: pytest.MonkeyPatch
):
    rows = [json.dumps({"question": "what ?", "image": "a.png", "id": name}) for name in ids]
    source = lines(tmp_path, rows, prompt_id_column="id")
    expected = list(source.prompts())
    with_dictionary = []

    def counted(prompts: Any) -> Any:
        with_dictionary.append(1)
        return base.checked(prompts)

    monkeypatch.setattr(table, "LARGE_BYTES", 0)
    monkeypatch.setattr(table, "checked", counted)
    assert list(source.prompts()) == expected
    assert bool(with_dictionary) == (len(set(ids)) < len(ids))


def test_ids_by_the_place_of_a_row_need_no_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "a.parquet-1", "b"):
        pq.write_table(pa.table({"question": ["what ?"] * 12, "image": ["a.png"] * 12}), tmp_path / f"{name}.parquet")
    monkeypatch.delattr(table, "checked")
    ids = [prompt.prompt_id for prompt in Table(path=str(tmp_path), image_root=str(tmp_path)).prompts()]
    assert len(set(ids)) == 36
    assert ids[:2] == ["a.parquet-0", "a.parquet-1"]


def test_the_sample_of_images_is_the_same_however_many_paths_are_looked_at_together(monkeypatch: pytest.MonkeyPatch):
    paths = [None, "", *(f"folder/{number % 700}.png" for number in range(2_000))]
    expected = sorted({path for path in paths if path}, key=lambda path: key_of(0, "image digest", path))[:64]
    for size in (1, 50, 4096):
        monkeypatch.setattr(image_digests, "PATHS_AT_ONCE", size)
        assert sample_of(paths) == expected
