"""check: every artifact under a root -> lines that say which are whole, and what to do about each that is not.

All files of described artifacts are read. In older artifacts, which have no digests, every shard is opened.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.core.recipe_files import RECIPE, RECORD, found_recipe, made_anew
from seva_ray.core.storage import files_in
from seva_ray.core.verification import damage, num_rows, results_in


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known about one artifact."""

    name: str
    state: str
    """`whole`; `whole as far as known`, without digests; `incomplete`; or `at fault`."""
    line: str = ""
    """What is wrong, and what to do about it."""


def check(store: Store) -> Iterator[Finding]:
    """One finding for each artifact under the root, by name."""
    for name in names_in_root(store):
        try:
            yield finding(store, name)
        except InputError as error:
            yield Finding(name=name, state="at fault", line=str(error))


def summary(findings: Counter[str]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in findings.items() if count)


def names_in_root(store: Store) -> list[str]:
    found = (name.rpartition("/") for name in files_in(store.root))
    return sorted({folder for folder, _, file in found if file in (RECIPE, RECORD) and folder})


def finding(store: Store, name: str) -> Finding:
    """Raises: InputError if a file of the artifact cannot be read."""
    uri, record = store.uri(name), store.record(name)
    if record is None:
        found_recipe(uri)
        return Finding(name=name, state="incomplete", line="the same command makes what is missing")
    if found_recipe(uri) is None:
        raise InputError(f"{uri}/{RECIPE}: is gone; remove {uri}, and the same command makes it again")
    changes = damage(uri, record.get("files", {}), every=True)
    if changes:
        file, what = next(iter(changes.items()))
        others = f" and {len(changes) - 1:,} more files" if len(changes) > 1 else ""
        way_on = f"remove it{others}, and the same command makes what is missing"
        return Finding(name=name, state="at fault", line=f"{file} {what}; {way_on}")
    if stale := stale_inputs(store, record):
        line = f"{', '.join(stale)} was made anew since; the same command makes it again"
        return Finding(name=name, state="at fault", line=line)
    if "files" in record or name.startswith("studies/"):
        return Finding(name=name, state="whole")
    for file in results_in(uri):
        if file.endswith(".parquet"):
            num_rows(f"{uri}/{file}")
    return Finding(name=name, state="whole as far as known")


def stale_inputs(store: Store, record: Mapping[str, Any]) -> list[str]:
    """The inputs that have other contents now. An input that is not there any more is no fault."""
    contents = {name: (store.record(name) or {}).get("contents") for name in record["recipe"].get("inputs", {})}
    return made_anew(record, {name: now for name, now in contents.items() if now}, {})
