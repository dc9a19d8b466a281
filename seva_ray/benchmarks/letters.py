"""The letter that an answer to a multiple-choice question chooses, by the rules of VLMEvalKit."""

import re
from collections.abc import Sequence

from seva_ray.benchmarks.choices import LETTERS

PUNCTUATION = re.compile(r"[.()\[\],:;!*#{}。，：；！（）、]")
"""VLMEvalKit's punctuation, and its full-width forms in Chinese answers."""
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
    "Failed to obtain answer via API",
)
"""VLMEvalKit's refusals. An answer that holds one of them chooses no option."""


def vlmevalkit_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses; None if it chooses no letter.

    Source: `can_infer` of VLMEvalKit, vlmeval/utils/matching_util.py at aca64dbb (April 2025, VERBOSE off): the only
    option's letter among the words, wherever it is; else the only option whose text the answer holds. The article A
    counts as a letter in that code too, and the letter Z chooses nothing.
    """
    if any(refusal in text for refusal in REFUSALS):
        return None
    words = set(PUNCTUATION.sub(" ", text).split())
    found = words & set(LETTERS[: len(options)])
    if len(found) == 1:
        return found.pop()
    if not found and "Z" in words:
        return None
    held = [letter for letter, option in zip(LETTERS, options) if option.lower() in text.lower()]
    return held[0] if len(held) == 1 else None
