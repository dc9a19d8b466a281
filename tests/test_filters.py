"""Filters of pairs: the four measures, their limits, and what they cost."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from seva_ray.core.errors import ConfigError
from seva_ray.pairs.filters import (
    FILTERS,
    OFF,
    Filters,
    edit_distance,
    length_ratio,
    repetition,
    word_overlap,
    words_of,
)

LOOP = "a dog and a cat " * 3


def table_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's distance from the textbook's table, cell by cell."""
    row = list(range(len(one) + 1))
    for number, word in enumerate(other, 1):
        before, row = row, [number]
        for index, own in enumerate(one, 1):
            row.append(min(before[index] + 1, row[-1] + 1, before[index - 1] + (own != word)))
    return row[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red-haired DOG, isn't it?", ["a", "red", "haired", "dog", "isn't", "it"]),
        ("3.5 € (£4)", ["3", "5", "4"]),
        ("...", []),
        ("Straße ÉTÉ снег", ["strasse", "été", "снег"]),
        ("一只狗 and 2 ネコ", ["一", "只", "狗", "and", "2", "ネ", "コ"]),
        ("강아지 두 마리", ["강아지", "두", "마리"]),
    ],
)
def test_words_are_letters_and_digits_in_any_case_and_ideographs_one_by_one(text: str, words: list[str]):
    assert words_of(text) == words


def test_repetition_is_the_count_of_the_most_frequent_four_words_in_either_answer():
    once, loop = words_of("a dog and a cat"), words_of(LOOP)
    assert repetition(once, once) == 1
    assert repetition(loop, once) == repetition(once, loop) == 3
    assert repetition(["no"] * 6, once) == 3  # no no no no, from three places
    assert repetition(["no"] * 3, []) == 0


def test_a_phrase_across_two_answers_is_no_repetition():
    assert repetition(["a", "dog", "and", "a"], ["a", "dog", "and", "a"]) == 1


def test_the_length_ratio_is_rejected_to_chosen_in_words_and_no_answer_is_shorter_than_one():
    assert length_ratio(["a"] * 4, ["b"] * 6) == 1.5
    assert length_ratio(["a"] * 4, []) == 0.25
    assert length_ratio([], ["a"] * 4) == 4
    assert length_ratio([], []) == 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "distance"),
    [
        ("a red dog", "a red dog", 0),
        ("a red dog", "a blue dog", 1 / 3),
        ("a red dog", "a dog", 1 / 3),
        ("a dog", "a big red dog", 2 / 4),
        ("a b c", "d e", 1),
        ("a b", "b a", 1),
        ("", "a b", 1),
        ("a", "", 1),
        ("", "", 0),
    ],
)
def test_the_edit_distance_counts_words_to_insert_delete_or_replace_per_word_of_the_longer(chosen, rejected, distance):
    assert edit_distance(chosen.split(), rejected.split()) == pytest.approx(distance)


def test_the_edit_distance_is_the_textbooks_for_words_few_and_many_across_machine_words():
    draw = random.Random(0)
    for _ in range(150):
        vocabulary = [f"w{index}" for index in range(draw.choice([2, 5, 60]))]
        one, other = (draw.choices(vocabulary, k=draw.randrange(1, 140)) for _ in range(2))
        expected = table_distance(one, other) / max(len(one), len(other))
        assert edit_distance(one, other) == edit_distance(other, one) == pytest.approx(expected)


def test_the_edit_distance_of_the_longest_answers_takes_milliseconds():
    draw = random.Random(0)
    one, other = ([f"w{draw.randrange(400)}" for _ in range(512)] for _ in range(2))
    began = time.process_time()
    for _ in range(10):
        edit_distance(one, other)
    assert (time.process_time() - began) / 10 < 0.01  # measured: 0.6 ms


def test_the_word_overlap_is_shared_words_to_all_words_however_often_they_come():
    assert word_overlap(["a", "a", "red", "dog"], ["a", "blue", "dog", "dog"]) == 2 / 4
    assert word_overlap(["a"], ["b"]) == 0
    assert word_overlap([], []) == 1
    assert word_overlap([], ["a"]) == 0


def test_all_filters_are_off_by_default_and_drop_nothing():
    assert Filters() == OFF
    assert [getattr(OFF, name) for name in FILTERS] == [None] * len(FILTERS)
    assert OFF.dropped_by(LOOP, "!") is None


@pytest.mark.parametrize(
    ("name", "keeps", "drops", "chosen", "rejected"),
    [
        ("repetition", 3, 2, "no", "No, no! No no NO no."),
        ("length_ratio", (0.5, 1.0), (0.6, 1.0), "a b c d", "x y"),
        ("length_ratio", (0.0, 0.5), (0.0, 0.4), "a b c d", "x y"),
        ("edit_distance", (0.75, 1.0), (0.8, 1.0), "a b c d", "a x y z"),
        ("edit_distance", (0.0, 0.75), (0.0, 0.7), "a b c d", "a x y z"),
        ("word_overlap", (0.2, 1.0), (0.3, 1.0), "no yes so", "No, no: thrice 3"),
        ("word_overlap", (0.0, 0.2), (0.0, 0.1), "no yes so", "No, no: thrice 3"),
    ],
)
def test_a_value_on_the_limit_is_kept_and_one_beyond_it_is_dropped_by_name(name, keeps, drops, chosen, rejected):
    assert Filters(**{name: keeps}).dropped_by(chosen, rejected) is None
    assert Filters(**{name: drops}).dropped_by(chosen, rejected) == name


def test_of_several_filters_the_first_in_their_order_is_named():
    everything = Filters(repetition=1, length_ratio=(1, 1), edit_distance=(0, 0), word_overlap=(1, 1))
    for name in FILTERS:
        assert everything.dropped_by(LOOP, "a bird") == name
        everything = replace(everything, **{name: None})
    assert everything.dropped_by(LOOP, "a bird") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition", 0),
        ("repetition", 2.5),
        ("repetition", True),
        ("length_ratio", (2.0, 1.0)),
        ("length_ratio", (-1.0, 1.0)),
        ("length_ratio", (0.5, float("inf"))),
        ("edit_distance", (0.0, 1.1)),
        ("edit_distance", (float("nan"), 1.0)),
        ("word_overlap", (0.5,)),
    ],
)
def test_a_limit_that_cannot_work_is_refused_by_name_and_value(name: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        Filters(**{name: value})
    assert str(caught.value).startswith(f"{name} {value}: must be ")
