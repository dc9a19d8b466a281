"""contrast_pairs: SeVa's pairs, but with contrast-chosen answers where the model answers with a short one such as yes.

In: SeVa's pairs, and the pairs whose chosen answers were found by contrast (contrast.py) among short answers. Out: the
artifact `pairs/<model>/<prompts>/<view>+<method>`. Pairs of short answers are those of the contrast alone: as many with
each chosen answer if they are to be balanced, or all of them. If a training has a number of pairs, SeVa's fill what
those of the contrast leave.

As a control, as many short answers of each kind are turned round at random, whatever the image shows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from seva_ray.augmentations import CLEAN
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import NothingLeft
from seva_ray.core.records import PAIR_SCHEMA, table
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import shards_in
from seva_ray.core.storage import exists, read_table, write_table
from seva_ray.dpo.methods import METHODS
from seva_ray.engines.config import Generate
from seva_ray.pairs.files import files_of, lineage
from seva_ray.pairs.official import write_official
from seva_ray.pairs.quotas import quota_key
from seva_ray.pairs.verdicts import VERDICTS
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.contrast import Contrast, contrast
from seva_ray.stages.pair import PART_BYTES, Pair, pair
from seva_ray.stages.prepare import shards_of
from seva_ray.vlm.models import Model

PAIRED, ANSWERED = ["prompt_id", "chosen", "chosen_token_ids", "rejected"], ["prompt_id", "text"]


@dataclass(frozen=True, kw_only=True)
class ContrastPairs:
    """How SeVa's pairs and those of the contrast become one set."""

    kind: ClassVar[str] = "ContrastPairs"

    name: str
    """Names the set, after the view of SeVa's pairs."""
    short_answers: tuple[str, ...]
    num_pairs: int | None
    """Largest number of pairs. None: all of them."""
    balanced: bool = True
    """Keep equally many pairs for each chosen short answer."""
    turned: bool = False
    """The control: short answers are turned round at random, as many of each as the contrast turns round."""


def contrast_views(method: str, of_contrast: Contrast) -> tuple[str, ...]:
    """The views that a method's contrast needs answers in, beside those of SeVa's pairs."""
    return () if METHODS[method].short_answers == "view" else replace(of_contrast, only_short=True).views


def with_contrast(
    method: str,
    of_contrast: Contrast,
    of_pairs: Pair,
    generate: Generate,
    store: Store,
    prompts: Artifact,
    model: Model,
    usual: Artifact,
    answers: Mapping[str, Artifact],
    num_pairs: int | None,
) -> Artifact:
    """The pairs that a method trains on: `usual`, those of SeVa, or those with short answers by contrast. Methods that
    take the same answers share them. `answers`: the model's responses by view, in those of `contrast_views`."""
    how = METHODS[method].short_answers
    if how == "view":
        return usual
    of_contrast = replace(of_contrast, only_short=True)
    chosen = contrast(of_contrast, generate, store, prompts, model, answers)
    contrasted = pair(of_pairs, store, prompts, chosen, [answers[CLEAN]])
    config = ContrastPairs(
        name=how,
        short_answers=of_contrast.short_answers,
        num_pairs=num_pairs,
        balanced=of_contrast.balanced,
        turned=how == "turned",
    )
    return contrast_pairs(config, store, usual, contrasted)


def contrast_pairs(config: ContrastPairs, store: Store, usual: Artifact, contrasted: Artifact) -> Artifact:
    """One set of both pairs. Raises: NothingLeft if the contrast never chooses one of the short answers."""
    prompts, chosen, rejected = lineage(store, usual)

    def opened() -> Artifact:
        inputs = [prompts, chosen, *rejected, usual, contrasted]
        return store.open(f"{usual.name}+{config.name}", config=config, inputs=inputs, later_is_new=True)

    return made_once(store, opened, lambda artifact: mixed(config, artifact, prompts, chosen, usual, contrasted))


def mixed(
    config: ContrastPairs, artifact: Artifact, prompts: Artifact, clean: Artifact, usual: Artifact, contrasted: Artifact
) -> Artifact:
    """Write the set, while no other job makes it."""
    senses = sorted({sense(text) for text in config.short_answers})
    changed = [row for row in rows_in(files_of(contrasted), PAIRED) if sense(row["chosen"]) in senses]
    if config.balanced:
        changed = balanced(changed, senses)
    if not changed:
        sides = "each" if config.balanced else "any"
        raise NothingLeft(
            f"{artifact.name}: the contrast does not choose {sides} of {' and '.join(senses)} where the model answers "
            "otherwise; more prompts or another contrast.view may help"
        )
    if config.turned:
        changed = turned(changed, rows_in([clean.path(shard) for shard in shards_in(clean.uri)], ANSWERED))
    answers = {row["prompt_id"]: row for row in changed}
    others = [row["prompt_id"] for row in rows_in(files_of(usual), PAIRED) if sense(row["chosen"]) not in senses]
    room = len(others) if config.num_pairs is None else max(0, config.num_pairs - len(answers))
    kept, verdicts = set(sorted(others, key=quota_key)[:room]), dict.fromkeys(VERDICTS, 0)
    artifact = artifact.begin()
    for shard in shards_of(prompts):
        rows = pairs_of_shard(usual, prompts, shard, kept, answers)
        if rows:
            write_table(artifact.path("pairs", shard), table(rows, PAIR_SCHEMA), PART_BYTES)
        taken = {row["prompt_id"] for row in rows}
        for name, verdict in verdicts_in(usual, shard).items():
            verdicts["kept" if name in taken else "surplus" if verdict == "kept" else verdict] += 1
    write_official(artifact)
    sides = ", ".join(f"{number:,} {text}" for text, number in sorted(Counter(map(side, changed)).items()))
    say(f"pair {artifact.name.rpartition('/')[2]}: {len(kept):,} pairs of SeVa; chosen by contrast: {sides}")
    counts = {"num_prompts": prompts.counts["num_prompts"], "verdicts": verdicts}
    counts["views"] = dict.fromkeys(usual.counts["views"], verdicts)
    return artifact.finish(counts | {"num_by_contrast": len(answers)})


def sense(text: str) -> str:
    """A short answer, however it is written: `Yes.` is `yes`."""
    return text.removesuffix(".").casefold()


def side(row: Mapping[str, Any]) -> str:
    return sense(row["chosen"])


def rows_in(shards: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of all shards, which are URIs."""
    return [row for shard in shards for row in read_table(shard, columns).to_pylist()]


def balanced(rows: Sequence[dict[str, Any]], senses: Sequence[str]) -> list[dict[str, Any]]:
    """Equally many rows for each chosen answer: the rows with the lowest keys."""
    by_side = {text: [row for row in rows if side(row) == text] for text in senses}
    fewest = min(map(len, by_side.values()))
    return [row for group in by_side.values() for row in sorted(group, key=by_quota)[:fewest]]


def by_quota(row: Mapping[str, Any]) -> int:
    return quota_key(row["prompt_id"])


def turned(rows: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same answers for other prompts. They are drawn by a hash among those whose own answer is the rejected one."""
    drawn = sorted(own, key=lambda row: key_of(0, "turned", row["prompt_id"]))
    waiting: dict[str, list[str]] = {}
    for row in drawn:
        waiting.setdefault(row["text"], []).append(row["prompt_id"])
    return [row | {"prompt_id": waiting[row["rejected"][0]["text"]].pop()} for row in rows]


def pairs_of_shard(
    usual: Artifact, prompts: Artifact, shard: str, kept: AbstractSet[str], answers: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """SeVa's pairs that are kept, and the prompts of this shard with the answers of the contrast."""
    there = exists(usual.path("pairs", shard))
    rows = (
        [row for row in read_table(usual.path("pairs", shard)).to_pylist() if row["prompt_id"] in kept] if there else []
    )
    asked = [row for row in read_table(prompts.path(shard)).to_pylist() if row["prompt_id"] in answers]
    return rows + [
        {key: row[key] for key in PAIR_SCHEMA.names if key in row} | answers[row["prompt_id"]] for row in asked
    ]


def verdicts_in(pairs: Artifact, shard: str) -> dict[str, str]:
    """prompt_id -> its verdict; `kept` if it is kept in any view."""
    found: dict[str, str] = {}
    for row in read_table(pairs.path("verdicts", shard), ["prompt_id", "verdict"]).to_pylist():
        if found.get(row["prompt_id"]) != "kept":
            found[row["prompt_id"]] = row["verdict"]
    return found
