"""What a record says about an artifact's files, and how a later job sees that one of them was cut, changed or lost."""

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from seva_ray.core.contents import TAGS, sha256_of, tag_of
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.listing import found_in
from seva_ray.core.patience import StorageUnavailable, patient
from seva_ray.core.recipe_files import RECIPE, RECORD
from seva_ray.core.shards import read_each, shards_in
from seva_ray.core.storage import locate, read_table, whole

NOT_RESULTS_IN = ("run/", "tune/", "tensorboard/", "images/")
"""Directories whose files may change after the artifact is complete: checkpoints, curves, what is known of images."""

WHOLE_BYTES = 2**26
"""A remote file that is larger is known by its store's tag, without being read again. A local artifact that is larger
is verified by the sizes of its files, unless all of it is asked for."""

Facts = Mapping[str, Any]
"""About one file: `bytes`, its size; `sha256`; `tag` of a remote file; `rows` of a parquet file."""


@patient
def described(uri: str) -> dict[str, Facts]:
    """The facts about each file of the artifact at `uri`, by its name in it."""
    filesystem, path = locate(uri)
    found = results_in(uri)

    def facts(name: str) -> Facts:
        item, where = found[name], f"{path.rstrip('/')}/{name}"
        about: dict[str, Any] = {"bytes": item["size"]}
        tag = None if isinstance(filesystem, LocalFileSystem) else tag_of(item, TAGS)
        if tag is not None:
            about["tag"] = tag
        if tag is None or item["size"] <= WHOLE_BYTES:
            about["sha256"] = sha256_of(filesystem, where)
        if name.endswith(".parquet"):
            about["rows"] = num_rows(f"{uri}/{name}")
        return about

    return dict(zip(found, read_each(facts, list(found)), strict=True))


@patient
def results_in(uri: str) -> dict[str, Any]:
    """The listing of the artifact's files, by name: not of artifacts within it, nor of files that no result is in."""
    filesystem, path = locate(uri)
    start = len(path.rstrip("/")) + 1
    found = {name[start:]: item for name, item in found_in(filesystem, path).items()}
    within = tuple(name.removesuffix(RECIPE) for name in found if name.endswith(f"/{RECIPE}"))
    left_out = (*NOT_RESULTS_IN, *within)
    return {
        name: found[name]
        for name in sorted(found)
        if name not in (RECIPE, RECORD) and not name.startswith(left_out) and not name.endswith(".part")
    }


@patient
def damage(uri: str, files: Mapping[str, Facts], sizes_only: bool = False, every: bool = False) -> dict[str, str]:
    """What has happened to each file that is no longer as it was recorded. All files are read if `every`; otherwise
    those of small local artifacts, and those whose store gives them another tag than before."""
    filesystem, path = locate(uri)
    found = results_in(uri)
    local = isinstance(filesystem, LocalFileSystem)
    small = local and sum(facts["bytes"] for facts in files.values()) <= WHOLE_BYTES

    def change(name: str) -> str | None:
        if name not in found:
            return "is gone"
        size, before = found[name]["size"], files[name]
        if size != before["bytes"]:
            return "is empty" if not size else f"has {size:,} bytes, not the {before['bytes']:,} that were written"
        other_tag = not local and tag_of(found[name], TAGS) != before.get("tag")
        if sizes_only or not (every or small or other_tag) or "sha256" not in before:
            return "is another file" if other_tag and not sizes_only and "sha256" not in before else None
        same = sha256_of(filesystem, f"{path.rstrip('/')}/{name}") == before["sha256"]
        return None if same else "has other contents than were written"

    changes = zip(files, read_each(change, list(files)), strict=True)
    return {name: what for name, what in changes if what is not None}


def contents_of(files: Mapping[str, Facts]) -> str:
    """A digest of the artifact's results: of its model if it has one, otherwise of all its files. Empty without any."""
    names = [name for name in files if name.startswith("model/")] or list(files)
    return fingerprint_of({name: files[name].get("sha256") or files[name]["tag"] for name in names}) if names else ""


@patient
def num_rows(uri: str) -> int:
    """Rows of a parquet file. Raises: InputError if it is not whole."""
    filesystem, path = locate(uri)
    with whole(uri), filesystem.open(path, "rb", cache_type="none") as file:
        return pq.ParquetFile(file).metadata.num_rows


def whole_shards(uri: str, of: str) -> set[str]:
    """Names of the shards of rows at `uri` that have a row for each row of the shard of that name at `of`, by
    prompt_id. A shard that is cut, or belongs elsewhere, is not among them."""
    names = shards_in(uri)

    def is_whole(name: str) -> bool:
        ids = column(f"{uri}/{name}", "prompt_id")
        return ids is not None and ids == column(f"{of}/{name}", "prompt_id")

    return {name for name, fine in zip(names, read_each(is_whole, names), strict=True) if fine}


def column(uri: str, name: str) -> list[Any] | None:
    """A column of a parquet file, or None if the file is not there or not whole."""
    try:
        with whole(uri):
            return read_table(uri, [name])[name].to_pylist()
    except StorageUnavailable:
        raise
    except InputError:
        return None
