"""pair: clean and augmented responses -> the artifact `pairs/<model>/<prompts>/<view>`, or `<view>+<name>`.

Writes one verdict per prompt (`verdicts/`), the kept pairs with their images (`pairs/`), and the same pairs in the
official SeVa JSON (`pairs.json`: chosen, reject, question, image_id).
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from seva_ray.artifacts import Artifact, Store
from seva_ray.errors import ConfigError, InputError
from seva_ray.filters import Filters
from seva_ray.fingerprints import execution
from seva_ray.quotas import last_keys, quota_key
from seva_ray.records import PAIR_SCHEMA, VERDICT_SCHEMA, Response, table
from seva_ray.stages.cluster import join
from seva_ray.stages.prepare import shard_name
from seva_ray.stages.progress import say
from seva_ray.storage import read_table, write_bytes, write_table
from seva_ray.verdicts import OPTIONAL, VERDICTS, verdict_of


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Which pairs are kept."""

    keep_truncated: bool = True
    """Keep a pair of which a response was cut at the token limit (without an end-of-sequence token)."""
    filters: Filters = field(default_factory=Filters)
    max_per_source: dict[str, int] = field(default_factory=dict)
    """Pairs to keep of each source named, at most; those of a smaller number are among those of a larger. The paper:
    `ocr_vqa 4300 textvqa 6500`."""
    name: str = execution("")
    """Sets these pairs apart from others of the same view: they are `pairs/<model>/<prompts>/<view>+<name>`."""

    def __post_init__(self) -> None:
        for source, count in self.max_per_source.items():
            if type(count) is not int or count < 0:
                raise ConfigError(f"max_per_source of {source} {count!r}: must be a whole number from 0")


def pair(config: Pair, store: Store, prompts: Artifact, chosen: Artifact, rejected: Artifact) -> Artifact:
    """Match the responses of two views by prompt_id. Raises: InputError where not one pair is left."""
    view = rejected.name.rsplit("/", 1)[-1]
    name = f"pairs/{rejected.name.removeprefix('responses/')}" + (f"+{config.name}" if config.name else "")
    artifact = store.open(name, config=config, inputs=[prompts, chosen, rejected])
    if artifact.complete:
        return artifact
    shards = [shard_name(index) for index in range(prompts.counts["num_shards"])]
    join()
    sides = Sides(prompts=prompts, chosen=chosen, rejected=rejected)
    last = quota_keys(config, sides, shards) if config.max_per_source else {}
    tasks = [pair_shard.remote(config, sides, artifact, view, last, shard) for shard in shards]
    counts = Counter(dict.fromkeys(VERDICTS, 0))
    for shard_counts in ray.get(tasks):
        counts.update(shard_counts)
    assert sum(counts.values()) == prompts.counts["num_prompts"], "every prompt has one verdict"
    shown = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count or verdict not in OPTIONAL)
    say(f"pair {view}: {shown}")
    if not counts["kept"]:
        filtered = any(counts[verdict] for verdict in OPTIONAL)
        advice = "loosen its filters" if filtered else "a stronger augmentation gives more unequal answers"
        raise InputError(f"{artifact.name}: no pair is left ({shown}); {advice}")
    write_bytes(artifact.path("pairs.json"), official_json(artifact, shards))
    return artifact.finish({"num_prompts": prompts.counts["num_prompts"], "verdicts": dict(counts)})


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What pairs are made from, cut into the same shards."""

    prompts: Artifact
    chosen: Artifact
    rejected: Artifact


def lineage(store: Store, pairs: Artifact) -> tuple[Artifact, Artifact, Artifact]:
    """The prompts, and the chosen and rejected responses, that pairs were made from."""
    prompts, chosen, rejected = (store.find(name) for name in pairs.recipe["inputs"])
    return prompts, chosen, rejected


Judged = tuple[dict[str, Any], Response, Response, str, str | None]


def judged(config: Pair, sides: Sides, shard: str, columns: Sequence[str] | None = None) -> Iterator[Judged]:
    """Prompt row (all columns or some), chosen, rejected, verdict and error, of each prompt; quotas not yet applied."""
    by_id = [
        {row["prompt_id"]: Response(**row) for row in read_table(side.path(shard)).to_pylist()}
        for side in (sides.chosen, sides.rejected)
    ]
    for row in read_table(sides.prompts.path(shard), columns=columns).to_pylist():
        clean, augmented = (responses[row["prompt_id"]] for responses in by_id)
        yield row, clean, augmented, *verdict_of(clean, augmented, config.keep_truncated, config.filters)


def quota_keys(config: Pair, sides: Sides, shards: Sequence[str]) -> dict[str, int]:
    """Source -> the greatest key within its quota. Raises: ConfigError where no prompt is of a source that has one."""
    found: set[str] = set()

    def parts() -> Iterator[dict[str, list[int]]]:
        for task in [kept_keys.remote(config, sides, shard) for shard in shards]:
            keys = ray.get(task)
            found.update(keys)
            yield keys

    last = last_keys(config.max_per_source, parts())
    if missing := sorted(config.max_per_source.keys() - found):
        raise ConfigError(
            f"max_per_source {missing[0]}: no prompt of this source; there are {', '.join(sorted(found))}"
        )
    return last


@ray.remote
def kept_keys(config: Pair, sides: Sides, shard: str) -> dict[str, list[int]]:
    """The quota keys of one shard's kept prompts, for each source that the shard has."""
    keys: dict[str, list[int]] = {}
    for row, _, _, verdict, _ in judged(config, sides, shard, columns=["prompt_id", "source"]):
        of_source = keys.setdefault(row["source"], [])
        if verdict == "kept" and row["source"] in config.max_per_source:
            of_source.append(quota_key(row["prompt_id"]))
    return keys


@ray.remote
def pair_shard(
    config: Pair, sides: Sides, artifact: Artifact, view: str, last: dict[str, int], shard: str
) -> Counter[str]:
    """Verdicts and pairs of one shard; how many of each verdict. `last`: source -> the greatest key in its quota."""
    verdicts: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for row, clean, augmented, verdict, error in judged(config, sides, shard):
        if verdict == "kept" and row["source"] in last and quota_key(row["prompt_id"]) > last[row["source"]]:
            verdict = "surplus"
        texts = {"chosen": clean.text, "rejected": augmented.text}
        verdicts.append(
            {"prompt_id": row["prompt_id"], "source": row["source"], "verdict": verdict, "error": error} | texts
        )
        if verdict == "kept":
            token_ids = {"chosen_token_ids": clean.token_ids, "rejected_token_ids": augmented.token_ids}
            pairs.append(
                {key: row[key] for key in PAIR_SCHEMA.names if key in row} | {"view": view} | texts | token_ids
            )
    write_table(artifact.path("verdicts", shard), table(verdicts, VERDICT_SCHEMA))
    write_table(artifact.path("pairs", shard), table(pairs, PAIR_SCHEMA))
    return Counter(row["verdict"] for row in verdicts)


def read_pairs(prompts: Artifact, artifact: Artifact) -> pa.Table:
    """All kept pairs, in the prompts' order."""
    return pa.concat_tables(
        read_table(artifact.path("pairs", shard_name(index))) for index in range(prompts.counts["num_shards"])
    )


def official_json(artifact: Artifact, shards: list[str]) -> bytes:
    columns = ["chosen", "rejected", "question", "image_id"]

    def rows() -> Iterator[dict[str, str]]:
        for shard in shards:
            for row in read_table(artifact.path("pairs", shard), columns=columns).to_pylist():
                yield {"chosen": row["chosen"], "reject": row["rejected"]} | {key: row[key] for key in columns[2:]}

    return json.dumps(list(rows()), ensure_ascii=False, indent=0).encode()
