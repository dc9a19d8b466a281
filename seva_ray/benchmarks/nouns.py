"""The words of a description, in the singular that a list of known words holds. It needs no tagger and no word vectors.

Only words of the list matter to the caller, so the list decides between the singulars that spelling allows.
`original_words` are the words as CHAIR's published tool finds them, with the singulars that it gets wrong.
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


MARKS = re.compile(
    r"""\.{2,}|--|''|[;@#$%&?!*()\[\]{}<>"«»“”‘’„`‒–—―]|[:,](?!\d)|(?<=[^\s.])\.(?=[\])}>"'»”’]*(?:\s|$))"""
    r"|(?<=[^\s'])'[smd]?(?=\s|$)|(?:'ll|'re|'ve|n't)(?=\s|$)|(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)"
)
"""What NLTK 3.10 separates from a word. A period stays with the word before it, unless white space follows. So does a
hyphen."""
ORIGINAL_PLURALS = {
    "airbuses": "airbus",
    "buses": "bus",
    "calves": "calf",
    "children": "child",
    "doggies": "doggies",
    "geese": "goose",
    "glasses": "glass",
    "grandchildren": "grandchild",
    "knives": "knife",
    "mice": "mouse",
    "minibuses": "minibus",
    "oxen": "ox",
    "oxens": "oxs",
    "oxes": "ox",
    "people": "person",
    "pocketknives": "pocketknife",
    "scissors": "scissors",
}
"""Words of the published synonyms that do not follow ORIGINAL_ENDINGS."""
ORIGINAL_ENDINGS = (("men", "man"), ("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("oes", "o"), ("s", ""))
"""They make wrong singulars of some words, such as "bu" of "bus", "ty" of "ties" and "tenni" of "tennis"."""


def original_words(text: str) -> list[str]:
    """The words of a text in lower case, as CHAIR's tool splits them. Marks are words of their own.

    Source: the tool's caption_to_words, which calls NLTK's word_tokenize (rules of the Penn Treebank).
    """
    return MARKS.sub(r" \g<0> ", text.lower()).split()


def original_singular(word: str) -> str:
    """The singular that the library pattern makes of a word of the published synonyms, be it right or wrong."""
    if word in ORIGINAL_PLURALS:
        return ORIGINAL_PLURALS[word]
    return next((word.removesuffix(end) + one for end, one in ORIGINAL_ENDINGS if word.endswith(end)), word)
