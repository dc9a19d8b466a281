"""prepare: the prompts of a source or benchmark -> the artifact `prompts/<name>`, in shards of PROMPT_SCHEMA rows."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_least
from seva_ray.core.contents import agreed, every_file, names_and_sizes
from seva_ray.core.errors import InputError, UserError
from seva_ray.core.fingerprints import execution, fingerprint_of
from seva_ray.core.ownership import owned
from seva_ray.core.reasons import Reasons
from seva_ray.core.recipe_files import found_recipe
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import exists, is_directory, lies_in, write_table
from seva_ray.runtime import metrics
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import to_be_made
from seva_ray.stages.image_digests import check_moved, digests, sample_of
from seva_ray.stages.image_facts import check_unchanged
from seva_ray.stages.prepare_parts import HasFiles, parts_of, sample_in_parts, write_parts

SHARD_BYTES = 128 * 2**20
"""Bytes of images in a shard of prompts, after which it ends: a task that reads the shard holds some copies of it."""


class HasPrompts(Protocol):
    """A source or a benchmark. The recipe has the contents of the files that its fields `path`, `..._path` and all
    other `place()` fields name, and of a sample of the images in `image_root`."""

    @property
    def image_root(self) -> str | None: ...

    def prompts(self) -> Iterator[Prompt]: ...


@runtime_checkable
class ReadsSome(Protocol):
    """A source whose directory may also have files that it does not read. They are no part of the recipe."""

    def reads(self, name: str) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """How prompts are cut into shards."""

    kind: ClassVar[str] = "Prepare"

    shard_size: int = 256
    """Number of prompts per shard, or fewer if they hold large images. A shard is the unit that is generated,
    committed, and redone after a crash."""

    verify: bool = execution(False)
    """Read all images and compare them with the digests that this option noted before. Without it, an image that was
    replaced is noticed by its size, time or tag."""

    def __post_init__(self) -> None:
        check_least(self, 1, "shard_size")


def prepare(config: Prepare, store: Store, name: str, source: HasPrompts) -> Artifact:
    """Read the source once, in its order. If anything fails before its last prompt, no files remain.

    Raises: InputError if the source has no usable prompt.
    """
    recipe = {"prepare": config, "source": source}
    new, *formerly = digests_of(source, found_recipe(store.uri(f"prompts/{name}")))
    older = [recipe | each for each in formerly]
    if record := store.record(f"prompts/{name}"):
        named = {"images", "image_root"} & record["recipe"]["config"].keys()  # older versions named no images
        known = record["counts"]["images"] if named else None
    else:
        known = digests_of_images(source)
    images = {} if known is None else images_in_recipe(source, known)

    def opened() -> Artifact:
        return store.open(f"prompts/{name}", config=recipe | new | images, older=older)

    artifact = opened()
    if artifact.complete:
        return metrics.reused(reusable(artifact, source, config.verify))
    with owned(store.root, [artifact.name]):
        artifact = opened()  # another job may have made it meanwhile
        if artifact.complete:
            return metrics.reused(reusable(artifact, source, config.verify))
        return prepare_alone(config, to_be_made(artifact), name, source, known)


def prepare_alone(
    config: Prepare, artifact: Artifact, name: str, source: HasPrompts, known: Mapping[str, str] | None
) -> Artifact:
    """Make the artifact of prompts, while no other job makes it. `known` has the digests of a sample of the images."""
    rows: list[int] | None = source.rows_by_file() if isinstance(source, HasFiles) else None
    if isinstance(source, HasFiles) and rows and any(rows):
        return prepare_in_parts(config, artifact, name, source, rows, known)
    shards = batches(source.prompts(), config.shard_size)
    with waiting(f"prepare {name}: reading the source"):
        first = next(shards, None)
    if first is None:
        raise InputError(f"source of {name}: it contains no prompts")
    artifact = artifact.begin()
    try:
        with waiting(f"prepare {name}: writing the prompts"):
            counts = write_shards(name, artifact, itertools.chain([first], shards))
    except BaseException:  # this includes an interrupt; the next try starts again with the first prompt
        artifact.discard()
        raise
    return finished(config, artifact, source, counts, known)


def prepare_in_parts(
    config: Prepare,
    artifact: Artifact,
    name: str,
    source: HasFiles,
    rows: Sequence[int],
    known: Mapping[str, str] | None,
) -> Artifact:
    """The same for a large table, of which tasks write the shards."""
    parts = parts_of(rows, config.shard_size)
    artifact = artifact.begin()
    try:
        reasons = write_parts(name, artifact, source, parts)
        counts = counts_of(name, sum(rows), sum(len(part.rows) for part in parts), reasons)
    except (UserError, KeyboardInterrupt):  # after a crash, the next try goes on from the parts that are there
        artifact.discard()
        raise
    return finished(config, artifact, source, counts, known)


def finished(
    config: Prepare,
    artifact: Artifact,
    source: HasPrompts,
    counts: Mapping[str, Any],
    known: Mapping[str, str] | None,
) -> Artifact:
    """The artifact with its record, and with the facts of its images noted."""
    found = {"image_root": source.image_root} | ({} if known is None else {"images": known})
    artifact = artifact.finish({**counts, **found})
    if known is not None:
        check_unchanged(artifact, config.verify)
    return artifact


def reusable(artifact: Artifact, source: HasPrompts, verify: bool) -> Artifact:
    """Complete prompts, with the place where their images are now. Raises: InputError if none of them can be used;
    FingerprintMismatch if their images are not the same ones, there or where they have moved to."""
    counts = artifact.counts
    if counts.get("num_failed") == counts["num_prompts"]:  # older versions allowed this
        raise InputError(f"{artifact.name}: none of its prompts can be used; remove {artifact.uri}")
    moved = counts.get("image_root") != source.image_root
    if moved:
        if counts["image_root"] and source.image_root and has_images_elsewhere(source):
            check_moved(artifact, source.image_root)
        say(f"prepare {artifact.name.removeprefix('prompts/')}: its images have moved to {source.image_root}")
        artifact = artifact.with_counts(image_root=source.image_root)
    if has_images_elsewhere(source):
        check_unchanged(artifact, verify, moved)
    return artifact


def write_shards(name: str, artifact: Artifact, shards: Iterable[list[Prompt]]) -> dict[str, Any]:
    """Write the shards and return their counts. Raises: InputError if no prompt can be used."""
    num_prompts = num_shards = 0
    reasons = Reasons()
    for num_shards, rows in enumerate(shards, 1):
        write_table(artifact.path(shard_name(num_shards - 1)), table(rows, PROMPT_SCHEMA))
        num_prompts += len(rows)
        for row in rows:
            if row.error is not None:
                reasons.add(row.prompt_id, row.error)
    return counts_of(name, num_prompts, num_shards, reasons)


def counts_of(name: str, num_prompts: int, num_shards: int, reasons: Reasons) -> dict[str, Any]:
    """Say how many prompts there are. Raises: InputError with the most frequent reason if none can be used."""
    num_failed = reasons.counts.total()
    if num_failed == num_prompts:
        raise InputError(f"source of {name}: none of its {num_prompts:,} prompts can be used; {reasons.lines()[0]}")
    say(f"prepare {name}: {num_prompts:,} prompts, {num_failed:,} unusable")
    for line in reasons.lines():
        say(f"prepare {name}: {line}")
    return {"num_prompts": num_prompts, "num_shards": num_shards, "num_failed": num_failed} | reasons.record()


def shards_of(prompts: Artifact) -> list[str]:
    """Names of the shards of a prompt set. Whatever is made of it shard by shard has files of the same names."""
    return [shard_name(number) for number in range(prompts.counts["num_shards"])]


def own_system(prompts: Artifact) -> str:
    """The name of the system text that a benchmark's prompts are asked with; empty for that of the generation."""
    return (prompts.recipe["config"].get("source") or {}).get("system", "")


def digests_of(source: HasPrompts, found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What the recipe says about the contents that the source reads, and what recipes of older versions said: the
    oldest identified the files of a directory only by names and sizes. If the recipe that was `found` in the store has
    another digest of the same contents, the first has that one."""
    path = getattr(source, "path", None)
    fields: Mapping[str, Any] = getattr(source, "__dataclass_fields__", {})
    files = [name for name, field in fields.items() if field.metadata.get("place") or name.endswith("_path")]
    others = [name for name in files if name not in ("path", "image_root")]
    uris = {"contents": path} if path and exists(path) else {}
    uris |= {f"contents of {field}": uri for field in others if (uri := getattr(source, field))}
    recorded = (found or {}).get("config") or {}
    both = {key: agreed(uri, recorded.get(key), reads_of(source, key)) for key, uri in uris.items()}
    now, before = ({"contents": path and False} | {key: each[age] for key, each in both.items()} for age in (0, 1))
    return [now, before, before | {key: names_and_sizes(uri) for key, uri in uris.items() if is_directory(uri)}]


def reads_of(source: HasPrompts, key: str) -> Callable[[str], bool]:
    """Whether the source reads a file of its directory, by the path in it."""
    return source.reads if key == "contents" and isinstance(source, ReadsSome) else every_file


def has_images_elsewhere(source: HasPrompts) -> bool:
    """Whether the images lie outside the files whose contents are in the recipe."""
    path: str = getattr(source, "path", None) or ""
    return bool(path and source.image_root) and not lies_in(source.image_root or "", path)


def digests_of_images(source: HasPrompts) -> dict[str, str] | None:
    """The digests of a sample of the source's images; None if its other contents name them, or hold them. The source is
    read for it once more, without its images."""
    if not has_images_elsewhere(source):
        return None
    assert source.image_root is not None
    if isinstance(source, HasFiles) and (rows := source.rows_by_file()):
        sample = sample_in_parts(source, len(rows))
    else:
        paths = getattr(source, "image_paths", lambda: (prompt.image_path for prompt in source.prompts()))
        sample = sample_of(paths())
    return digests(source.image_root, sample) if sample else None


def images_in_recipe(source: HasPrompts, known: Mapping[str, str]) -> dict[str, Any]:
    """The images in the recipe: by their digests, or by their place if no image in the sample could be read."""
    return {"images": fingerprint_of(known)} if known else {"image_root": source.image_root}


def batches(rows: Iterator[Prompt], size: int, max_bytes: int = SHARD_BYTES) -> Iterator[list[Prompt]]:
    """The rows in lists of `size` rows, or of fewer if the images inside them have `max_bytes` bytes."""
    batch: list[Prompt] = []
    num_bytes = 0
    for row in rows:
        batch.append(row)
        num_bytes += len(row.image_bytes or b"")
        if len(batch) == size or num_bytes >= max_bytes:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
