"""Quotas: which pairs of a source stay follows from their ids alone."""

import random
from collections.abc import Sequence

import numpy as np

from seva_ray.pairs.quotas import keys_by_quota, last_keys, quota_key

IDS = [f"ocr_vqa/{index}" for index in range(300)]


def stay(quota: int, num_parts: int = 1, ids: Sequence[str] = IDS) -> set[str]:
    keys = [{"ocr_vqa": keys_by_quota(ids[part::num_parts])} for part in range(num_parts)]
    last = last_keys({"ocr_vqa": quota}, keys)
    return {prompt_id for prompt_id in IDS if quota_key(prompt_id) <= last["ocr_vqa"]}


def test_exactly_as_many_stay_as_the_quota_says_or_all_where_there_are_fewer():
    assert [len(stay(quota)) for quota in (0, 1, 43, 299, 300, 301)] == [0, 1, 43, 299, 300, 300]


def test_a_smaller_quota_is_part_of_a_larger():
    for smaller, larger in ((1, 2), (43, 65), (299, 300)):
        assert stay(smaller) < stay(larger)


def test_parts_and_order_do_not_change_who_stays():
    expected = stay(43)
    assert stay(43, num_parts=7) == stay(43, num_parts=300) == expected
    assert stay(43, ids=random.Random(0).sample(IDS, len(IDS))) == expected


def test_who_stays_is_pinned():
    """A change of the hash would change every cut set of pairs."""
    assert sorted(stay(3)) == ["ocr_vqa/122", "ocr_vqa/237", "ocr_vqa/79"]


def keys(*numbers: int) -> np.ndarray:
    return np.array([number.to_bytes(16, "big") for number in numbers], "S16")


def test_each_source_has_its_own_quota_and_one_without_is_left_alone():
    parts = [{"a": keys(5, 1, 9), "b": keys(2, 8), "c": keys(7)}, {"b": keys(4), "a": keys(3, 2**127)}]
    assert last_keys({"a": 2, "b": 1}, parts) == {"a": 3, "b": 2}
    assert last_keys({"a": 5}, parts) == {"a": 2**127}


def test_a_source_of_which_nothing_was_kept_is_no_error():
    assert last_keys({"a": 2}, [{"a": keys()}, {}]) == {"a": -1}
