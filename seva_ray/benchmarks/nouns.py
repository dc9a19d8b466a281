"""Words of a description, in the singular that a list of known words has. No tagger and no word vectors.

Only words of the list matter to whoever asks, so the list itself decides between the singulars that spelling allows.
"""

import re
from collections.abc import Container, Iterator

WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
IRREGULAR = {
    "children": "child",
    "people": "person",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
}
ENDINGS = (("men", "man"), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


def words_in(text: str) -> list[str]:
    """In lower case, without punctuation; a possessive's s is a word of its own."""
    return WORD.findall(text.lower())


def singular(word: str, known: Container[str]) -> str:
    """The first spelling of the word or its singular that is known; the word itself where none is."""
    return next((candidate for candidate in _singulars(word) if candidate in known), word)


def _singulars(word: str) -> Iterator[str]:
    yield word
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for plural, one in ENDINGS:
        if word.endswith(plural):
            yield word.removesuffix(plural) + one
