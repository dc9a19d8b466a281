"""A large table is prepared in parts, with the shards that one process would have written."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.shards import shards_in
from seva_ray.sources import table
from seva_ray.sources.table import Table
from seva_ray.stages import prepare_parts
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.prepare_parts import parts_of

SIZE = 10


def rows(name: str, number: int) -> list[dict[str, Any]]:
    return [{"question": f"{name} {n} ?" if n % 7 else "", "image": f"{name}/{n % 9}.png"} for n in range(number)]


@pytest.fixture
def source(tmp_path: Path) -> Table:
    """Files of 25, 4, 0, 4, 40 and 1 rows. Shards of 10 rows begin in the first, the fourth and the fifth."""
    directory = tmp_path / "rows"
    (directory / "deep").mkdir(parents=True)
    for name, number in (("a", 25), ("b", 3), ("c", 0), ("deep/d", 4)):
        text = "\n\n".join(json.dumps(row) for row in rows(name, number))
        (directory / f"{name}.jsonl").write_text(text + ("\n{broken" if name == "b" else ""))
    for name, number in (("e", 40), ("f", 1)):
        pq.write_table(pa.Table.from_pylist(rows(name, number)), directory / f"{name}.parquet")
    (tmp_path / "images").mkdir()
    return Table(path=str(directory), image_root=str(tmp_path / "images"))


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tables are large, and tasks run in this process. The names of the functions whose tasks ran are in the list."""
    ran: list[str] = []

    def results_of(function: Callable[..., Any], arguments: Iterable[Sequence[Any]], what: str) -> Iterator[Any]:
        for given in arguments:
            ran.append(function.__name__)
            yield function(*given)

    monkeypatch.setattr(table, "LARGE_BYTES", 0)
    monkeypatch.setattr(prepare_parts, "results_of", results_of)
    monkeypatch.setattr(prepare_parts, "join", lambda: None)
    monkeypatch.setattr(prepare_parts, "check_places", lambda *needs: None)
    return ran


def prepared(root: Path, source: Table) -> Artifact:
    return prepare(Prepare(shard_size=SIZE), Store(str(root)), "rows", source)


def files_of(artifact: Artifact) -> dict[str, bytes]:
    return {name: Path(artifact.path(name)).read_bytes() for name in shards_in(artifact.uri)}


def test_shards_counts_and_recipe_are_those_of_one_process(tmp_path: Path, source: Table, request):
    alone = prepared(tmp_path / "alone", source)
    ran = request.getfixturevalue("in_parts")
    shared = prepared(tmp_path / "shared", source)
    assert {name: ran.count(name) for name in ran} == {"sample_of_file": 6, "write_part": 3}
    assert (shared.recipe, shared.counts) == (alone.recipe, alone.counts)
    assert files_of(shared) == files_of(alone)
    assert len(files_of(alone)) == 8
    assert alone.counts["num_failed"] > 5


@pytest.mark.parametrize("sizes", [[25, 3, 0, 5, 40, 1], [1] * 35, [10, 10], [0, 0, 3], [100]])
def test_every_row_is_in_one_part(sizes: list[int]):
    starts = [sum(sizes[:file]) for file in range(len(sizes))]
    found = []
    for part in parts_of(sizes, SIZE):
        assert 0 <= part.skipped < sizes[part.file]
        for number, size in enumerate(part.rows, part.first_shard):
            found.append((number * SIZE, size))
            begins = number * SIZE - starts[part.file]
            assert part.skipped <= begins < sizes[part.file]
    assert found == [(start, min(SIZE, sum(sizes) - start)) for start in range(0, sum(sizes), SIZE)]


def test_after_a_crash_only_the_parts_that_are_not_whole_are_read_again(
    tmp_path: Path, source: Table, in_parts: list[str], monkeypatch: pytest.MonkeyPatch
):
    expected = prepared(tmp_path / "whole", source)
    real, written = prepare_parts.written, []

    def counted(source: Any, part: Any, shards: Sequence[str]) -> Any:
        written.append(part.file)
        if len(written) == 3:
            raise RuntimeError("a node was lost")
        return real(source, part, shards)

    monkeypatch.setattr(prepare_parts, "written", counted)
    with pytest.raises(RuntimeError, match="a node was lost"):
        prepared(tmp_path / "again", source)
    again = prepared(tmp_path / "again", source)
    assert written == [0, 3, 4, 4]
    assert (again.counts, files_of(again)) == (expected.counts, files_of(expected))


def test_a_fault_of_the_table_leaves_no_files(tmp_path: Path, source: Table, in_parts: list[str]):
    (Path(source.path) / "e.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="parquet"):
        prepared(tmp_path, source)
    assert not (tmp_path / "prompts").exists()


def test_tables_that_hold_images_or_name_an_id_twice_are_read_by_one_process(tmp_path: Path, source: Table, in_parts):
    assert source.rows_by_file() == [25, 4, 0, 4, 40, 1]
    pq.write_table(pa.table({"question": ["?"], "image": [b"bytes"]}), Path(source.path) / "g.parquet")
    assert source.rows_by_file() is None
    named = Table(path=f"{tmp_path}/named", image_root=str(tmp_path), prompt_id_column="id")
    Path(named.path).mkdir()
    for name, ids in (("a", "xy"), ("b", "zy")):
        lines = [json.dumps({"question": "?", "image": "a.png", "id": each}) for each in ids]
        Path(named.path, f"{name}.jsonl").write_text("\n".join(lines))
    assert named.rows_by_file() is None


@pytest.mark.slow
def test_real_tasks_write_what_one_process_writes(
    tmp_path: Path, source: Table, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
):
    alone = prepared(tmp_path / "alone", source)
    monkeypatch.setattr(table, "LARGE_BYTES", 0)
    shared = prepared(tmp_path / "shared", source)
    assert (shared.recipe, shared.counts, files_of(shared)) == (alone.recipe, alone.counts, files_of(alone))
