"""A prompt with its pictures and two answers, as a page shows it: words that only one answer has are marked."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter
from typing import Any

ANSWER_LIMIT = 1500
"""Longest answer that is shown whole, in characters: a model may repeat itself without end."""
WIDE_FROM = 140
"""A sample with an answer longer than this many characters has a row of its own."""
SMALL_PX = 128
"""Largest width in pixels at which an image is shown with hard pixels instead of blurred ones."""
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image and the text under it."""

    caption: str
    png: bytes
    """The image's PNG file; empty if it has no image."""


@dataclass(frozen=True, kw_only=True)
class AnswerText:
    """A text and its heading."""

    heading: str
    text: str


def sample_view(
    *,
    prompt_id: str,
    question: str,
    mark: str,
    label: str,
    about: str,
    pictures: Sequence[Picture],
    good: AnswerText,
    bad: AnswerText,
) -> dict[str, Any]:
    """The values that the template shows. `mark` is the CSS class of the dot before `label`."""
    runs = marked_differences(good.text[:ANSWER_LIMIT], bad.text[:ANSWER_LIMIT])
    return {
        "prompt_id": prompt_id,
        "question": question,
        "mark": mark,
        "label": label,
        "about": about,
        "images": [
            (picture.caption, data_uri(picture.png, "image/png"), is_small(picture.png)) for picture in pictures
        ],
        "answers": [
            (answer.heading, css_class, of_answer, max(0, len(answer.text) - ANSWER_LIMIT))
            for answer, css_class, of_answer in zip((good, bad), ("chosen", "rejected"), runs, strict=True)
        ],
        "wide": max(len(good.text), len(bad.text)) > WIDE_FROM,
    }


def marked_differences(one: str, other: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Returns both texts as runs of (text, whether the other text lacks these words)."""
    words_one, words_other = list(WORD.finditer(one)), list(WORD.finditer(other))
    matcher = SequenceMatcher(None, [m.group() for m in words_one], [m.group() for m in words_other], autojunk=False)
    differ_one, differ_other = set(range(len(words_one))), set(range(len(words_other)))
    for block in matcher.get_matching_blocks():
        differ_one -= set(range(block.a, block.a + block.size))
        differ_other -= set(range(block.b, block.b + block.size))
    return _runs(one, words_one, differ_one), _runs(other, words_other, differ_other)


def _runs(text: str, words: Sequence[re.Match[str]], differing: set[int]) -> list[tuple[str, bool]]:
    marked = [False] * len(text)
    for index in differing:
        first = words[index - 1].end() if index - 1 in differing else words[index].start()
        last = words[index].end()
        marked[first:last] = [True] * (last - first)
    runs = groupby(zip(text, marked, strict=True), key=itemgetter(1))
    return [("".join(character for character, _ in run), is_marked) for is_marked, run in runs]


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}" if data else ""


def is_small(png: bytes) -> bool:
    """Whether the width in the PNG header is small; False if it is not a PNG."""
    return png[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(png[16:20], "big") <= SMALL_PX
