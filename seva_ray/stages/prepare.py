"""prepare: the prompts of a source or benchmark -> the artifact `prompts/<name>`, in shards of PROMPT_SCHEMA rows."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.reasons import Reasons
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.storage import contents, exists, is_directory, names_and_sizes, write_table
from seva_ray.runtime import metrics
from seva_ray.runtime.progress import say


class HasPrompts(Protocol):
    """A source or a benchmark. The contents of the files in its fields `path` and `..._path` are part of the recipe."""

    @property
    def image_root(self) -> str | None: ...

    def prompts(self) -> Iterator[Prompt]: ...


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """How prompts are cut into shards."""

    kind: ClassVar[str] = "Prepare"

    shard_size: int = 256
    """Number of prompts per shard. A shard is the unit that is generated, committed, and redone after a crash."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"shard_size {self.shard_size}: must be at least 1")


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.parquet"


def prepare(config: Prepare, store: Store, name: str, source: HasPrompts) -> Artifact:
    """Read the source once, in its order. If anything fails before its last prompt, no files remain.

    Raises: InputError if the source has no usable prompt.
    """
    recipe = {"prepare": config, "source": source}
    new, older = digests_of(source)
    artifact = store.open(f"prompts/{name}", config=recipe | new, older=recipe | older)
    if artifact.complete:
        if artifact.counts.get("num_failed") == artifact.counts["num_prompts"]:  # older versions allowed this
            raise InputError(f"{artifact.name}: none of its prompts can be used; remove {artifact.uri}")
        return metrics.reused(artifact)
    shards = batches(source.prompts(), config.shard_size)
    first = next(shards, None)
    if first is None:
        raise InputError(f"source of {name}: it contains no prompts")
    artifact = artifact.begin()
    try:
        counts = write_shards(name, artifact, itertools.chain([first], shards))
    except BaseException:  # this includes an interrupt; the next try starts again with the first prompt
        artifact.discard()
        raise
    return artifact.finish(counts | {"image_root": source.image_root})


def write_shards(name: str, artifact: Artifact, shards: Iterable[list[Prompt]]) -> dict[str, int]:
    """Write the shards and return their counts. Raises: InputError with the most frequent reason if no prompt can be
    used."""
    num_prompts = num_shards = 0
    reasons = Reasons()
    for num_shards, rows in enumerate(shards, 1):
        write_table(artifact.path(shard_name(num_shards - 1)), table(rows, PROMPT_SCHEMA))
        num_prompts += len(rows)
        for row in rows:
            if row.error is not None:
                reasons.add(row.prompt_id, row.error)
    num_failed = reasons.counts.total()
    if num_failed == num_prompts:
        raise InputError(f"source of {name}: none of its {num_prompts:,} prompts can be used; {reasons.lines()[0]}")
    say(f"prepare {name}: {num_prompts:,} prompts in {num_shards:,} shards, {num_failed:,} unusable")
    for line in reasons.lines():
        say(f"prepare {name}: {line}")
    return {"num_prompts": num_prompts, "num_shards": num_shards, "num_failed": num_failed}


def digests_of(source: HasPrompts) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the recipe says about the contents that the source reads, and what the recipe of older versions said: they
    identified the files of a directory only by names and sizes."""
    path = getattr(source, "path", None)
    others = [field for field in getattr(source, "__dataclass_fields__", ()) if field.endswith("_path")]
    uris = {"contents": path} if path and exists(path) else {}
    uris |= {f"contents of {field}": uri for field in others if (uri := getattr(source, field))}
    new = {"contents": path and exists(path)} | {key: contents(uri) for key, uri in uris.items()}
    return new, new | {key: names_and_sizes(uri) for key, uri in uris.items() if is_directory(uri)}


def batches(rows: Iterator[Prompt], size: int) -> Iterator[list[Prompt]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
