"""Sorting by way of temporary files: the same as in memory."""

import numpy as np
import pytest

from seva_ray.core import sorting
from seva_ray.core.seeds import keys_of
from seva_ray.core.sorting import sorter


def test_numbers_are_sorted_by_their_keys_as_the_integers_that_they_are():
    keys = [256**power * times for power in (0, 1, 7, 8, 14, 15) for times in (255, 128, 127, 1)] + [0, 2**128 - 1]
    found = np.empty(2 * len(keys), np.uint8)
    with sorter() as keyed:
        for first in (0, len(keys)):  # each key comes twice, and the number that came first is the first
            stored = np.array([key.to_bytes(16, "big") for key in keys], "S16")
            keyed.add(stored, np.arange(first, first + len(keys)))
        keyed.fill(found)
    assert found.tolist() == sorted(range(2 * len(keys)), key=lambda number: (keys * 2)[number])


@pytest.mark.parametrize("spooled_bytes", [100, 2**20])
def test_a_key_that_comes_twice_is_found_wherever_it_comes(spooled_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sorting, "SPOOLED_BYTES", spooled_bytes)
    names = [f"name {number}" for number in range(2_000)]
    for more, expected in (("another", False), ("name 0", True), ("name 1234", True), ("name 1999", True)):
        with sorter() as keyed:
            for some in (names[:700], names[700:], [more]):
                keyed.add(keys_of(0, ids=some), np.zeros(len(some), np.int64))
            assert keyed.has_equal_keys() is expected


def test_a_key_is_found_by_its_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sorting, "SPOOLED_BYTES", 100)
    keys = keys_of(0, ids=[str(number) for number in range(300)])
    with sorter(share=2) as keyed:
        keyed.add(keys, np.zeros(len(keys), np.int64))
        for place in (0, 1, 150, 299):
            assert keyed.key_at(place) == np.sort(keys)[place : place + 1].tobytes()
        with pytest.raises(IndexError, match="only 300 keys"):
            keyed.key_at(300)
