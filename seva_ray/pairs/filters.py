"""Filters of pairs beyond equality: how similar or different two answers must be for the pair to be kept.

In: the texts of a pair's answers. Out: the name of the first filter that drops the pair, which becomes its verdict.
Filters are pure functions of words, so that they can be changed without running a model. To add one, write a function
that measures, and add its line to FILTERS and a field of the same name for its limit.

A word is a run of letters, digits and inner apostrophes; case and punctuation do not count. In Chinese and Japanese,
which are written without spaces, each character counts as a word.
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
"""Number of successive words that form a phrase for `repetition`."""


def words_of(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def repetition(chosen: Words, rejected: Words) -> int:
    """How often the most frequent phrase of NGRAM words occurs in either answer. Phrases may overlap."""
    phrases = (Counter(zip(*(words[start:] for start in range(NGRAM)), strict=False)) for words in (chosen, rejected))
    return max(max(counts.values(), default=0) for counts in phrases)


def length_ratio(chosen: Words, rejected: Words) -> float:
    """Words of rejected per word of chosen. An answer without words counts as one word."""
    return max(1, len(rejected)) / max(1, len(chosen))


def edit_distance(chosen: Words, rejected: Words) -> float:
    """Words to insert, delete or replace to turn one answer into the other, divided by the words of the longer answer:
    0 if they are equal, 1 if all words differ.

    Two integers with a bit per word of chosen hold a column of the table of distances (its steps up and down). So each
    word of rejected takes only a few integer operations: 0.01 ms for 20 words each, 0.6 ms for 512.
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
    """Jaccard index of the two sets of words, from 0 (no common word) to 1 (the same words)."""
    either = set(chosen) | set(rejected)
    return len(set(chosen) & set(rejected)) / len(either) if either else 1.0


FILTERS: Mapping[str, tuple[Callable[[Words, Words], float], str]] = {
    "repetition": (repetition, "an answer says the same words too often"),
    "length_ratio": (length_ratio, "one answer is too long for the other"),
    "edit_distance": (edit_distance, "too few or too many words differ"),
    "word_overlap": (word_overlap, "the answers share too few or too many words"),
}
"""For each field of Filters, in the order of the rules: the measure to compare with it, and why a pair is dropped."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The conditions on a pair's answers. None turns a filter off. A value equal to a limit is kept."""

    kind: ClassVar[str] = "Filters"

    repetition: int | None = None
    """How often any four words in a row may occur in an answer; at least 1. This drops answers that loop."""
    length_ratio: tuple[float, float] | None = None
    """Smallest and largest length of rejected / chosen, in words (`0.5 2` keeps up to twice or half the length)."""
    edit_distance: tuple[float, float] | None = None
    """Smallest and largest share of words to edit between the answers, 0 to 1 (`0.1 1` drops nearly equal answers)."""
    word_overlap: tuple[float, float] | None = None
    """Smallest and largest share of words in both answers (Jaccard), 0 to 1 (`0.2 1` drops unrelated answers)."""

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
        """The name of the first filter that the answers do not pass; None if they pass all."""
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
