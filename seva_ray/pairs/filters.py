"""Filters of pairs beyond equality: what two answers must have in common, or apart, for the pair to be kept.

In: the texts of a pair's answers. Out: the name of the first filter that drops it, which becomes its verdict. Pure
functions of words, so that filters are changed without a model. To add one: a function that measures, its line in
FILTERS, and a field of the same name for its limit.

A word is a run of letters, digits and inner apostrophes in any case; punctuation is none. Chinese and Japanese, written
without spaces, count by the character.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from seva_ray.core.errors import ConfigError

Words = Sequence[str]

IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+(?:['’][^\W{IDEOGRAPHS}]+)*")
NGRAM = 4
"""Words in a row that make a phrase for `repetition`."""


def words_of(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def repetition(chosen: Words, rejected: Words) -> int:
    """How often the most frequent phrase of NGRAM words occurs in one answer, overlapping itself or not."""
    phrases = (Counter(zip(*(words[start:] for start in range(NGRAM)), strict=False)) for words in (chosen, rejected))
    return max(max(counts.values(), default=0) for counts in phrases)


def length_ratio(chosen: Words, rejected: Words) -> float:
    """Words of rejected per word of chosen; an answer without a word counts as one word long."""
    return max(1, len(rejected)) / max(1, len(chosen))


def edit_distance(chosen: Words, rejected: Words) -> float:
    """Words to insert, delete or replace to make one answer the other, per word of the longer: 0 equal, 1 all differ.

    A column of the table of distances is held as two integers with a bit per word of chosen (its steps up and down), so
    the time is a few operations on such integers per word of rejected: 0.01 ms for 20 words each, 0.6 ms for 512.
    Source: Myers 1999 (doi 10.1145/316542.316550), in the form of Hyyrö 2003 for the distance of whole texts.
    """
    if not chosen or not rejected:
        return float(len(chosen) != len(rejected))
    every, last = (1 << len(chosen)) - 1, 1 << (len(chosen) - 1)
    places: dict[str, int] = {}
    for index, word in enumerate(chosen):
        places[word] = places.get(word, 0) | 1 << index
    distance, up, down = len(chosen), every, 0
    for word in rejected:
        equal = places.get(word, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up, right_down = down | (every & ~(diagonal | up)), up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = every & (right_down | ~(diagonal | right_up)), every & right_up & diagonal
    return distance / max(len(chosen), len(rejected))


def word_overlap(chosen: Words, rejected: Words) -> float:
    """Jaccard index of the two sets of words: those in both per those in either, 0 none and 1 the same words."""
    either = set(chosen) | set(rejected)
    return len(set(chosen) & set(rejected)) / len(either) if either else 1.0


FILTERS: Mapping[str, tuple[Callable[[Words, Words], float], str]] = {
    "repetition": (repetition, "an answer says the same words too often"),
    "length_ratio": (length_ratio, "one answer is too long for the other"),
    "edit_distance": (edit_distance, "too few or too many words differ"),
    "word_overlap": (word_overlap, "the answers share too few or too many words"),
}
"""What is compared with the field of that name, and what it says of a dropped pair, in the order of the rules."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a pair's answers must be like; None is off. Limits belong to what is kept."""

    kind: ClassVar[str] = "Filters"

    repetition: int | None = None
    """Each answer may have any four words in a row at most so often, from 1: an answer that loops is dropped."""
    length_ratio: tuple[float, float] | None = None
    """Least and greatest length of rejected / chosen, in words, from 0: `0.5 2` keeps up to twice as long or short."""
    edit_distance: tuple[float, float] | None = None
    """Least and greatest share of words to edit between the answers, 0-1: `0.1 1` drops those that are nearly equal."""
    word_overlap: tuple[float, float] | None = None
    """Least and greatest share of words that are in both answers (Jaccard), 0-1: `0.2 1` drops unrelated answers."""

    def __post_init__(self) -> None:
        if self.repetition is not None and (type(self.repetition) is not int or self.repetition < 1):
            raise ConfigError(f"repetition {self.repetition!r}: must be a whole number from 1")
        for name, top in (("length_ratio", math.inf), ("edit_distance", 1), ("word_overlap", 1)):
            band = getattr(self, name)
            if band is None:
                continue
            if len(band) != 2 or not all(math.isfinite(end) for end in band) or not 0 <= band[0] <= band[1] <= top:
                limits = "0 <= low <= high" + (f" <= {top}" if math.isfinite(top) else "")
                raise ConfigError(f"{name} {band}: must be two finite numbers, {limits}")

    def dropped_by(self, chosen: str, rejected: str) -> str | None:
        """The first filter that the answers do not pass; None where they pass all."""
        limits = {name: limit for name in FILTERS if (limit := getattr(self, name)) is not None}
        if not limits:
            return None
        words = words_of(chosen), words_of(rejected)
        for name, limit in limits.items():
            low, high = limit if isinstance(limit, tuple) else (0, limit)
            measure, _ = FILTERS[name]
            if not low <= measure(*words) <= high:
                return name
        return None


OFF = Filters()
