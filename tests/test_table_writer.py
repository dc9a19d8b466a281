"""A table that is written piece by piece is the same file as one that is written at once."""

from pathlib import Path

import pyarrow as pa
import pytest

from seva_ray.core import table_writer as module
from seva_ray.core.storage import read_table, write_table
from seva_ray.core.table_writer import PART_ROWS, table_writer


def rows(first: int, number: int) -> pa.Table:
    return pa.table({"number": pa.array(range(first, first + number), pa.int32())})


def unlike_each_other(writer: module.TableWriter) -> None:
    writer.add(rows(0, 25))
    writer.add(rows(0, 25).append_column("other", [["x"] * 25]))


@pytest.mark.parametrize("size", [1, 300, PART_ROWS, PART_ROWS + 1])
def test_the_file_is_that_of_the_whole_table(size: int, tmp_path: Path):
    write_table(str(tmp_path / "whole"), rows(0, size))
    with table_writer(str(tmp_path / "pieces")) as writer:
        for first in range(0, size, 300_000):
            writer.add(rows(first, min(300_000, size - first)))
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_long_table_is_written_in_many_parts_to_a_store_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PART_ROWS", 10)
    for uri in (str(tmp_path / "file"), "memory://test-table-writer/file"):
        with table_writer(uri) as writer:
            for first in range(0, 70, 7):
                writer.add(rows(first, 7))
        assert read_table(uri).equals(rows(0, 70))


def test_an_error_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PART_ROWS", 10)
    with pytest.raises(pa.ArrowInvalid), table_writer(str(tmp_path / "file")) as writer:
        unlike_each_other(writer)
    with table_writer(str(tmp_path / "nothing")):
        pass
    assert not list(tmp_path.iterdir())
