"""pair: clean and augmented responses -> the artifact `pairs/<model>/<prompts>/<view>`, or `<view>+<name>`.

Several rejected views of one prompt stay together in one pair: `pairs/<model>/<prompts>/<view>--<view>`. If the chosen
answers are the data set's own, its name is `ground-truth-vs-<view>`. The stage writes a verdict per prompt and view
(`verdicts/`), the kept pairs with their images (`pairs/`), and the same pairs in the official SeVa JSON (`pairs.json`:
chosen, reject, question, image_id), with one row for each rejected response. A shard without a kept pair has no file
in `pairs/`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import numpy as np

from seva_ray.augmentations import CLEAN, CONTROLS
from seva_ray.augmentations.ladder import Ladder
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_choice
from seva_ray.core.errors import ConfigError, NothingLeft
from seva_ray.core.fingerprints import execution
from seva_ray.core.reasons import Reasons
from seva_ray.core.records import PAIR_SCHEMA, VERDICT_SCHEMA, Response, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.pairs.exchange import Answered, Rejected, others
from seva_ray.pairs.filters import Filters
from seva_ray.pairs.official import write_official
from seva_ray.pairs.quotas import keys_by_quota, last_keys, quota_key
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS, verdict_of
from seva_ray.runtime import metrics
from seva_ray.runtime.actors import results_of
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.runtime.resources import TASK, Need, check_places
from seva_ray.stages.prepare import shards_of

ANY = "any view"
"""Key of the verdicts of whole prompts: a prompt is kept if it is kept in at least one view."""

MAX_NAME = 200
"""Largest number of characters in the pairs' own name, which is the name of a directory."""

PART_BYTES = 2**20
"""Size of a part of a pairs file, about, in bytes. To get one pair, a training worker reads one part of the file."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Which pairs are kept."""

    kind: ClassVar[str] = "Pair"

    keep_truncated: bool = True
    """Keep a pair if a response was cut at the token limit (without an end-of-sequence token)."""
    keep_empty: bool = False
    """Keep a pair if one of its answers has no text, only the end-of-sequence token. The official SeVa keeps it."""
    filters: Filters = field(default_factory=Filters)
    """Conditions that the answers of a pair must meet, besides being unequal."""
    max_per_source: dict[str, int] = field(default_factory=dict)
    """Largest number of pairs from each source named. A smaller number keeps a subset of a larger. The paper's numbers
    are `ocr_vqa 4300 textvqa 6500`."""
    rejected: Rejected = "view"
    """Whose answers are rejected. other_prompt is a control: the kept pairs exchange their answers, so that each has
    the chosen answer of another prompt as its rejected one."""
    name: str = execution("")
    """Separates these pairs from others of that view; they are stored in `pairs/<model>/<prompts>/<view>+<name>`."""

    def __post_init__(self) -> None:
        check_choice(self, "rejected", get_args(Rejected))
        for source, count in self.max_per_source.items():
            if type(count) is not int or count < 0:
                raise ConfigError(f"max_per_source of {source} {count!r}: must be a whole number from 0")


def pair(config: Pair, store: Store, prompts: Artifact, chosen: Artifact, rejected: Sequence[Artifact]) -> Artifact:
    """Match the responses of the clean and of one or more rejected views by prompt_id.

    Raises: NothingLeft if no pair is left, unless all views are controls.
    """
    return made_once(
        store,
        lambda: open_pairs(config, store, prompts, chosen, rejected),
        lambda artifact: pair_alone(config, artifact, prompts, chosen, rejected),
    )


def pair_alone(
    config: Pair, artifact: Artifact, prompts: Artifact, chosen: Artifact, rejected: Sequence[Artifact]
) -> Artifact:
    """Make the artifact of pairs, while no other job makes it."""
    views, label = [view_of(item) for item in rejected], artifact.name.rsplit("/", 1)[-1]
    shards = shards_of(prompts)
    join()
    check_places(Need("the comparison of responses", 1, TASK))
    sides = Sides(prompts=prompts, chosen=chosen, rejected={view_of(artifact): artifact for artifact in rejected})
    last = quota_keys(config, sides, shards) if config.max_per_source else {}
    counts: dict[str, Counter[str]] = {view: Counter(dict.fromkeys(VERDICTS, 0)) for view in (ANY, *views)}
    reasons = Reasons()
    artifact = artifact.begin()
    tasks = ((config, sides, artifact, last, shard) for shard in shards)
    for of_shard, failed in results_of(pair_shard, tasks, f"pair {label}: comparing the responses"):
        reasons.update(failed)
        for view, verdicts in of_shard.items():
            counts[view].update(verdicts)
    for view, verdicts in counts.items():
        assert sum(verdicts.values()) == prompts.counts["num_prompts"], f"every prompt has one verdict in {view}"
    metrics.judged(artifact, {view: counts[view] for view in views})
    shown = ", ".join(f"{n:,} {verdict}" for verdict, n in counts[ANY].items() if n or verdict not in OPTIONAL)
    say(f"pair {label}: {shown}")
    for line in reasons.lines():
        say(f"pair {label}: {line}")
    if not counts[ANY]["kept"] and not set(views) <= set(CONTROLS):
        artifact.discard()
        raise NothingLeft(f"{artifact.name}: no pair is left ({shown}); {advice(counts[ANY], reasons)}")
    write_official(artifact)
    of_views = {view: dict(counts[view]) for view in views}
    return artifact.finish(
        {"num_prompts": prompts.counts["num_prompts"], "verdicts": dict(counts[ANY]), "views": of_views}
        | reasons.record()
    )


def advice(verdicts: Counter[str], reasons: Reasons) -> str:
    """What may help if no prompt is kept."""
    if verdicts["failed"] == max(verdicts.values()):
        return reasons.lines()[0]
    if any(verdicts[verdict] for verdict in OPTIONAL):
        return "loosen its filters"
    if verdicts["truncated"] == max(verdicts.values()):
        return "allow longer answers, or turn on keep_truncated"
    return "a stronger augmentation gives more unequal answers"


def open_pairs(
    config: Pair, store: Store, prompts: Artifact, chosen: Artifact, rejected: Sequence[Artifact]
) -> Artifact:
    views = [view_of(artifact) for artifact in rejected]
    label = "--".join(views) + (f"+{config.name}" if config.name else "")
    if view_of(chosen) != CLEAN:
        label = f"{view_of(chosen)}-vs-{label}"
    if len(set(views)) < len(views) or len(label) > MAX_NAME:
        raise ConfigError(f"views {' '.join(views)}: each may be given once, with at most {MAX_NAME} letters in all")
    if len(views) > 1 and any(Ladder.of(view) for view in views):
        raise ConfigError(f"views {' '.join(views)}: a noise ladder is the only view of its pairs")
    name = f"pairs/{chosen.name.removeprefix('responses/').rsplit('/', 1)[0]}/{label}"
    return store.open(name, config=config, inputs=[prompts, chosen, *rejected], later_is_new=True)


def view_of(responses: Artifact) -> str:
    return responses.name.rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The artifacts that pairs are made from. All are cut into the same shards."""

    prompts: Artifact
    chosen: Artifact
    rejected: Mapping[str, Artifact]
    """Rejected responses, by view."""


@dataclass(kw_only=True)
class Judged:
    """One rejected response of a prompt."""

    view: str
    response: Response
    verdict: str
    error: str | None

    @property
    def seen(self) -> str:
        """The view in which this response was given: of a noise ladder, the one with the step of this prompt."""
        return self.response.view or self.view


def judged(
    config: Pair, sides: Sides, shard: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[dict[str, Any], Response, list[Judged]]]:
    """Yields for each prompt its row (all columns or some), the chosen response and the rejected ones, before
    quotas."""
    chosen = by_id(sides.chosen, shard)
    rejected = {view: by_id(artifact, shard) for view, artifact in sides.rejected.items()}
    for row in read_table(sides.prompts.path(shard), columns=columns).to_pylist():
        clean = chosen[row["prompt_id"]]
        found = []
        for view, responses in rejected.items():
            response = responses[row["prompt_id"]]
            verdict, error = verdict_of(clean, response, config.keep_truncated, config.filters, config.keep_empty)
            found.append(Judged(view=view, response=response, verdict=verdict, error=error))
        yield row, clean, found


def by_id(responses: Artifact, shard: str) -> dict[str, Response]:
    return {row["prompt_id"]: Response(**row) for row in read_table(responses.path(shard)).to_pylist()}


def of_prompt(found: Sequence[Judged]) -> str:
    """A prompt's verdict: `kept` if any of its rejected responses is kept, otherwise the verdict in its first view."""
    return "kept" if any(item.verdict == "kept" for item in found) else found[0].verdict


def quota_keys(config: Pair, sides: Sides, shards: Sequence[str]) -> dict[str, int]:
    """Source -> the greatest key within its quota. Raises: ConfigError if a source with a quota has no prompts."""
    found: set[str] = set()

    def parts() -> Iterator[dict[str, np.ndarray]]:
        for keys in results_of(kept_keys, ((config, sides, shard) for shard in shards), "pair: applying the quotas"):
            found.update(keys)
            yield keys

    last = last_keys(config.max_per_source, parts())
    if missing := sorted(config.max_per_source.keys() - found):
        raise ConfigError(
            f"max_per_source {missing[0]}: no prompt has this source; the sources are {', '.join(sorted(found))}"
        )
    return last


def kept_keys(config: Pair, sides: Sides, shard: str) -> dict[str, np.ndarray]:
    """The quota keys of one shard's kept prompts, for each source in the shard."""
    kept: dict[str, list[str]] = {}
    for row, _, found in judged(config, sides, shard, columns=["prompt_id", "source"]):
        of_source = kept.setdefault(row["source"], [])
        if of_prompt(found) == "kept" and row["source"] in config.max_per_source:
            of_source.append(row["prompt_id"])
    return {source: keys_by_quota(ids) for source, ids in kept.items()}


def pair_shard(
    config: Pair, sides: Sides, artifact: Artifact, last: Mapping[str, int], shard: str
) -> tuple[dict[str, Counter[str]], Reasons]:
    """Write the verdicts and pairs of one shard. Return the counts by view, and why prompts failed in all views.
    `last`: source -> the greatest key within its quota."""
    verdicts: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    counts: dict[str, Counter[str]] = {view: Counter() for view in (ANY, *sides.rejected)}
    reasons = Reasons()
    rows = [*judged(config, sides, shard)]
    for row, _, found in rows:
        if row["source"] in last and quota_key(row["prompt_id"]) > last[row["source"]]:
            for item in found:
                item.verdict = "surplus" if item.verdict == "kept" else item.verdict
    if config.rejected == "other_prompt":
        exchange(rows)
    for row, clean, found in rows:
        counts[ANY][of_prompt(found)] += 1
        if of_prompt(found) == "failed":
            reasons.add(row["prompt_id"], found[0].error or "")
        for item in found:
            counts[item.view][item.verdict] += 1
            texts = {"chosen": clean.text, "rejected": item.response.text}
            about = {"prompt_id": row["prompt_id"], "source": row["source"], "view": item.seen}
            verdicts.append(about | {"verdict": item.verdict, "error": item.error} | texts)
        rejected = [
            {"view": item.seen, "text": item.response.text, "token_ids": item.response.token_ids}
            for item in found
            if item.verdict == "kept"
        ]
        if rejected:
            answers = {"chosen": clean.text, "chosen_token_ids": clean.token_ids, "rejected": rejected}
            pairs.append({key: row[key] for key in PAIR_SCHEMA.names if key in row} | answers)
    write_table(artifact.path("verdicts", shard), table(verdicts, VERDICT_SCHEMA))
    if pairs:
        write_table(artifact.path("pairs", shard), table(pairs, PAIR_SCHEMA), PART_BYTES)
    return counts, reasons


def exchange(rows: Sequence[tuple[dict[str, Any], Response, list[Judged]]]) -> None:
    """Give every kept pair the chosen answer of another kept pair as its rejected one, or drop it as `equal`."""
    kept = {row["prompt_id"]: (row, clean) for row, clean, found in rows if of_prompt(found) == "kept"}
    given = others([Answered(name, row["question"], clean.text) for name, (row, clean) in kept.items()])
    for row, _, found in rows:
        for item in found:
            if item.verdict == "kept":
                other = given.get(row["prompt_id"])
                item.verdict = "kept" if other else "equal"
                item.response = kept[other][1] if other else item.response
