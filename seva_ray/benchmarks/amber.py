"""AMBER: hallucination in descriptions (generative) and in answers to yes/no questions (discriminative).

In: the published data folder (query/query_generative.json, query/query_discriminative.json, annotations.json,
relation.json, safe_words.txt) and the folder of images. It makes two benchmarks, because it asks in two ways.

Generative, in percent over all descriptions: CHAIR, the nouns of relation.json that are not in the image; Cover, the
annotated objects that are named; Hal, the descriptions with a noun that is not in the image; Cog, the annotated
temptations that are named. A noun is in the image if it is annotated, or if relation.json associates it with an
annotated one.
Deviates: AMBER's script finds nouns with a tagger, and also accepts a noun if spaCy's word vectors say that it is
similar to one in the image (above 0.8). Here only words of relation.json count, in the singular (nouns.py), and
similar words do not. So CHAIR and Hal are higher than the script's. The protocol is named `exact-words` for that.

Discriminative: accuracy, and precision, recall and F1 of the answer no; overall and for existence, attribute, relation.
It asks for short answers as LLaVA-1.5 does. The script accepts exactly Yes or No, as the protocol `amber-original`
does; by default the first word of the answer decides, in upper or lower case.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from seva_ray.benchmarks.base import (
    LOW_IS_GOOD,
    AskedWith,
    LabelledQuestion,
    LlavaBenchmark,
    Tally,
    percent,
    protocol_of,
    tally_of,
    text_of,
)
from seva_ray.benchmarks.choices import SHORT_ANSWER, ask
from seva_ray.benchmarks.files import (
    adjacent,
    choice_at,
    id_at,
    image_at,
    items_at,
    object_at,
    read_json,
    read_text,
    settle_paths,
    text_at,
    unique,
)
from seva_ray.benchmarks.nouns import singular, words_in
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt, Response

GENERATIVE = "generative"
DIMENSIONS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute",
    "discriminative-attribute-number": "attribute",
    "discriminative-attribute-action": "attribute",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""The dimension of each type of annotation."""
NAMES = ("existence", "attribute", "relation")
NOUN_COUNTS = ("nouns", "wrong_nouns", "objects", "covered", "tempting", "taken", "descriptions", "wrong_descriptions")
ANSWER_COUNTS = ("asked", "right", "is_no", "said_no", "rightly_no")


@dataclass(frozen=True, kw_only=True)
class AmberQuery:
    """A query with its annotation."""

    prompt: Prompt
    kind: str
    row: Mapping[str, Any]
    where: str


@dataclass(frozen=True, kw_only=True)
class AmberGenerative(AskedWith):
    """Descriptions, scored by the nouns in them."""

    kind: ClassVar[str] = "AmberGenerative"

    path: str = place()
    """AMBER's folder `data`."""
    image_root: str = place()
    """Folder of AMBER's images."""
    protocol: Literal["exact-words"] = "exact-words"
    """The way of asking and scoring. It is part of the recipe."""

    def __post_init__(self) -> None:
        settle_paths(self, "path", "image_root")
        self.images  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    def name(self) -> str:
        return f"amber-generative-{protocol_of(self)}"

    @cached_property
    def images(self) -> list["AmberImage"]:
        relation, safe = f"{self.path.rstrip('/')}/relation.json", f"{self.path.rstrip('/')}/safe_words.txt"
        associated = {word: texts(items, relation) for word, items in read_json(relation, dict).items()}
        known = frozenset([*associated, *(word for items in associated.values() for word in items)])
        ignored = frozenset(word.strip() for word in read_text(safe).splitlines())
        return [
            AmberImage(
                prompt=item.prompt,
                objects=Objects.of(item.row, "truth", associated, item.where),
                temptations=Objects.of(item.row, "hallu", associated, item.where),
                known=known,
                ignored=ignored,
            )
            for item in read_queries(self.path, "query_generative.json", (GENERATIVE,))
        ]

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(image.prompt for image in self.images)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """A missing response counts as a description with one noun, which is not in the image."""
        return tally_of(
            NOUN_COUNTS,
            ((image.prompt.image_id, image.count(text_of(responses, image.prompt.prompt_id))) for image in self.images),
        )

    def hallucinated(self, responses: Mapping[str, Response]) -> dict[str, list[str]]:
        return {
            image.prompt.prompt_id: sorted(set(image.wrong(image.nouns(text))))
            for image in self.images
            if (text := text_of(responses, image.prompt.prompt_id))
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            f"AMBER CHAIR{LOW_IS_GOOD}": percent(sums["wrong_nouns"], sums["nouns"]),
            "AMBER Cover": percent(sums["covered"], sums["objects"]),
            f"AMBER Hal{LOW_IS_GOOD}": percent(sums["wrong_descriptions"], sums["descriptions"]),
            f"AMBER Cog{LOW_IS_GOOD}": percent(sums["taken"], sums["tempting"]),
        }


@dataclass(frozen=True, kw_only=True)
class AmberDiscriminative(LlavaBenchmark[str]):
    """Yes/no questions. No is the positive answer, because a model that hallucinates does not say it."""

    kind: ClassVar[str] = "AmberDiscriminative"
    short_name: ClassVar[str] = "amber-discriminative"

    protocol: Literal["llava", "amber-original"] = "llava"  # type: ignore[assignment]
    """`llava`: the first word of the answer decides. `amber-original`: the answer must be exactly Yes or No."""

    @cached_property
    def questions(self) -> list[LabelledQuestion[str]]:
        return [
            LabelledQuestion(
                prompt=item.prompt,
                group=DIMENSIONS[item.kind],
                label=choice_at(item.row, "truth", ("yes", "no"), item.where),
            )
            for item in read_queries(self.path, "query_discriminative.json", tuple(DIMENSIONS), SHORT_ANSWER)
        ]

    @property
    def count_names(self) -> Sequence[str]:
        return [f"{name}_{what}" for name in NAMES for what in ANSWER_COUNTS]

    def says(self, text: str | None) -> str:
        """What an answer says: yes, no, or something else."""
        if self.protocol == "amber-original":
            return {"Yes": "yes", "No": "no"}.get(text or "", "")
        return next(iter(words_in(text or "")), "")

    def is_right(self, question: LabelledQuestion[str], text: str | None) -> bool:
        return self.says(text) == question.label

    def count(self, question: LabelledQuestion[str], text: str | None) -> Mapping[str, float]:
        is_no, said_no = question.label == "no", self.says(text) == "no"
        values = (1, self.is_right(question, text), is_no, said_no, said_no and is_no)
        return {f"{question.group}_{what}": float(value) for what, value in zip(ANSWER_COUNTS, values, strict=True)}

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = {what: np.sum([sums[f"{name}_{what}"] for name in NAMES], axis=0) for what in ANSWER_COUNTS}
        named = of_answers("AMBER", total)
        for name in NAMES:
            named |= of_answers(f"AMBER {name}", {what: sums[f"{name}_{what}"] for what in ANSWER_COUNTS})
        return named


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Annotated objects, and the words that count as each of them."""

    num: int
    place_of: Mapping[str, int]
    """Word -> index of its object: the first object associated with the word, or else the first of that name."""

    @classmethod
    def of(cls, row: Mapping[str, Any], field: str, associated: Mapping[str, Sequence[str]], where: str) -> "Objects":
        objects = texts(items_at(row, field, where), f"{where}, {field}")
        place_of: dict[str, int] = {}
        for number, name in enumerate(objects):
            if name not in associated:
                raise InputError(f"{where}, {field}: {name!r} is not in relation.json")
            for word in associated[name]:
                place_of.setdefault(word, number)
        for number, name in enumerate(objects):
            place_of.setdefault(name, number)
        return cls(num=len(objects), place_of=place_of)


@dataclass(frozen=True, kw_only=True)
class AmberImage:
    """An image with what its description is scored by."""

    prompt: Prompt
    objects: Objects
    temptations: Objects
    """Objects that are not in the image, but that such a picture makes one think of."""
    known: frozenset[str]
    """The nouns that count."""
    ignored: frozenset[str]
    """Nouns with too many meanings. They are never wrong, and never name an object."""

    def count(self, text: str | None) -> dict[str, float]:
        if text is None:
            values = (1, 1, self.objects.num, 0, self.temptations.num, 0, 1, 1)
            return dict(zip(NOUN_COUNTS, map(float, values), strict=True))
        nouns = self.nouns(text)
        covered = {
            self.objects.place_of[noun] for noun in nouns if noun in self.objects.place_of and noun not in self.ignored
        }
        wrong = self.wrong(nouns)
        taken = {self.temptations.place_of[noun] for noun in wrong if noun in self.temptations.place_of}
        shown = (self.objects.num, len(covered), self.temptations.num, len(taken))
        values = (len(nouns), len(wrong), *shown, 1, bool(wrong))
        return dict(zip(NOUN_COUNTS, map(float, values), strict=True))

    def nouns(self, text: str) -> list[str]:
        return [noun for noun in (singular(word, self.known) for word in words_in(text)) if noun in self.known]

    def wrong(self, nouns: Sequence[str]) -> list[str]:
        return [noun for noun in nouns if noun not in self.ignored and noun not in self.objects.place_of]


def of_answers(label: str, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        f"{label} accuracy": percent(sums["right"], sums["asked"]),
        f"{label} precision": percent(sums["rightly_no"], sums["said_no"]),
        f"{label} recall": percent(sums["rightly_no"], sums["is_no"]),
        f"{label} F1": percent(2 * sums["rightly_no"], sums["said_no"] + sums["is_no"]),
    }


def read_queries(path: str, name: str, kinds: Sequence[str], request: str = "") -> list[AmberQuery]:
    """The queries of one file with their annotations, in the file's order."""
    folder = path.rstrip("/")
    annotations = f"{folder}/annotations.json"
    labels = {}
    for number, row in enumerate(read_json(annotations, list), start=1):
        where = f"{annotations}, row {number}"
        labels[id_at(object_at(row, where), "id", where)] = where, row
    queries, file = [], f"{folder}/query/{name}"
    for number, row in enumerate(read_json(file, list), start=1):
        where = f"{file}, row {number}"
        query_id, image = id_at(object_at(row, where), "id", where), image_at(row, "image", where)
        if query_id not in labels:
            raise InputError(f"{where}, id: {query_id} is not in annotations.json")
        label_where, label = labels[query_id]
        kind = choice_at(label, "type", kinds, label_where)
        text = text_at(row, "query", where)
        prompt = Prompt(
            prompt_id=query_id,
            image_id=image,
            question=ask(text, [], request) if request else text,
            source=f"amber_{DIMENSIONS.get(kind, kind)}",
            image_path=image,
        )
        queries.append((where, query_id, AmberQuery(prompt=prompt, kind=kind, row=label, where=label_where)))
    return list(unique(queries, "id", file).values())


def texts(items: Any, where: str) -> list[str]:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InputError(f"{where}: expected lists of words")
    return items
