"""The files of an artifact of pairs, and the artifacts that it was made from."""

from itertools import takewhile
from typing import Literal

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.shards import shards_in

IMPORTED = "imported"
"""The view of rejected answers that were made elsewhere: nobody here knows what their model saw."""

GROUND_TRUTH = "ground-truth"
"""The view of chosen answers that are the data set's own: no model gave them."""

CONTRAST = "contrast"
"""Begins the view of chosen answers that were found by contrast among the model's own."""

Origin = Literal["self", "contrast", "ground truth", "imported"]
"""The source of the answers: both from the model itself, as in SeVa; the chosen ones by contrast among its answers; the
chosen ones from the data set; or both from elsewhere."""


def origin_of(pairs: Artifact) -> Origin:
    _, chosen, *rejected = (name.rpartition("/")[2] for name in responses_of(pairs))
    if chosen == GROUND_TRUTH:
        return "ground truth"
    if chosen.startswith(f"{CONTRAST}-"):
        return "contrast"
    return "imported" if IMPORTED in rejected else "self"


RANK = "rank"
"""The column of pairs that are trained on in an order of their own: their places in it, from 0 to below 1. Other pairs
have no such column."""


def files_of(pairs: Artifact) -> list[str]:
    """URIs of the shards that have kept pairs."""
    return [pairs.path("pairs", shard) for shard in shards_in(pairs.path("pairs"))]


def made_of(pairs: Artifact) -> list[str]:
    """The names of the pairs that these were taken from; empty if they were made from responses alone."""
    return [name for name in pairs.recipe["inputs"] if name.startswith("pairs/")]


def responses_of(pairs: Artifact) -> list[str]:
    """The names of the prompts, the chosen and the rejected responses. Other pairs, and what these were selected by,
    come after them in the recipe."""
    return list(takewhile(lambda name: not name.startswith("pairs/"), pairs.recipe["inputs"]))


def lineage(store: Store, pairs: Artifact) -> tuple[Artifact, Artifact, list[Artifact]]:
    """The artifacts that pairs were made from: the prompts, the chosen responses and the rejected responses. Of pairs
    that were made from other pairs too, it is those of the last of them."""
    prompts, chosen, *rejected = (store.find(name) for name in responses_of(pairs))
    return prompts, chosen, rejected
