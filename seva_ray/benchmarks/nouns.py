"""The words of a description, in the singular that a list of known words holds. It needs no tagger and no word vectors.

Only words of the list matter to the caller, so the list decides between the singulars that spelling allows.
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
    """The words in lower case, without punctuation. The s of a possessive is a word of its own."""
    return WORD.findall(text.lower())


def singular(word: str, known: Container[str]) -> str:
    """The first known spelling of the word or of its singular; the word itself if no spelling is known."""
    return next((candidate for candidate in _singulars(word) if candidate in known), word)


def _singulars(word: str) -> Iterator[str]:
    yield word
    if word in IRREGULAR:
        yield IRREGULAR[word]
    for plural, one in ENDINGS:
        if word.endswith(plural):
            yield word.removesuffix(plural) + one
