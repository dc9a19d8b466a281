"""Work on many files: in order, several at once, never all."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

from seva_ray.core.shards import in_order, read_each, shards_in
from seva_ray.core.storage import NUM_READERS


def test_no_more_is_begun_than_the_limit_and_what_was_taken():
    begun: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10):
            begun.append(number)
            yield number

    results = in_order(tasks(), lambda number: 10 * number, limit=3)
    assert begun == []
    assert [next(results), next(results)] == [0, 10]
    assert len(begun) == 4
    assert list(results) == [10 * number for number in range(2, 10)]


def test_files_are_read_side_by_side_and_come_in_order():
    together = Barrier(NUM_READERS, timeout=60)

    def read(uri: str) -> str:
        together.wait()
        return uri.upper()

    uris = [f"file {number}" for number in range(2 * NUM_READERS)]
    assert list(read_each(read, uris)) == [uri.upper() for uri in uris]


def test_shards_are_in_the_order_of_their_numbers_and_nothing_else_is_one(tmp_path: Path):
    for name in ("shard-1000000", "shard-999999", "shard-000002"):
        (tmp_path / f"{name}.parquet").touch()
    (tmp_path / "shard-000001.parquet.0123.part").touch()
    (tmp_path / "record.json").touch()
    names = ["shard-000002.parquet", "shard-999999.parquet", "shard-1000000.parquet"]
    assert shards_in(str(tmp_path)) == names
    assert shards_in(str(tmp_path / "none")) == []
