"""Everything that a result depends on, as plain data, and a fingerprint of it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST: Mapping[str, Mapping[str, Any]] = json.loads(
    Path(__file__).with_name("first_recipes.json").read_text(encoding="utf-8")
)
"""The fields that the first version wrote into recipes, by kind, with their defaults. It is never changed."""

ABSENT = object()
"""Stands for a value that is not there, and equals no value."""

EXECUTION = {"execution": True}
"""Metadata of a config field that says where and how fast something runs, not what comes out. Such a field is left out
of the fingerprint."""


def execution(default: Any) -> Any:
    """A dataclass field that does not change the result (workers, batch per device, paths of scratch space)."""
    return dataclasses.field(default=default, metadata=EXECUTION)


PLACE = {"place": True}
"""Metadata of a config field that says where files lie. The recipe names their contents instead."""


def place(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is a path or URI of files whose contents the recipe, or one of its inputs, names."""
    return dataclasses.field(default=default, metadata=PLACE)


def identity(value: Any, places: bool = False) -> Any:
    """`value` as JSON data, without the execution fields of dataclasses: what its results depend on. The places of
    files are left out too, unless `places` is true: older versions wrote them into recipes.

    A dataclass is named by its constant `kind`, so that its class may be renamed. A field that is not in FIRST is left
    out while it has its default: a class that gets a new field, with a default that changes nothing, makes the same
    recipes as before. What its default is decides its own identity: a part of which only execution fields are set, or a
    list in the place of a tuple, is the default still. A field in FIRST that the class has lost is written with its old
    default. So the default of a field must never change: a field with another default needs another name.

    Raises: TypeError for a value whose identity is not plain data, and for a dataclass without a kind.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = vars(type(value)).get("kind")
        if not isinstance(kind, str):
            raise TypeError(f"{type(value).__name__} has no constant `kind`, which names it in recipes")
        first = FIRST.get(kind, {})
        now = {name: identity(getattr(value, name), places) for name in deciding(value)}
        usual = {name: identity(default, places) for name, default in defaults_of(value).items()}
        written = {name: item for name, item in now.items() if name in first or item != usual.get(name, ABSENT)}
        found = {"kind": kind} | {name: default for name, default in first.items() if name not in now} | written
        return found if places else {name: item for name, item in found.items() if name not in places_of(value)}
    if isinstance(value, Mapping):
        return {str(key): identity(item, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item, places) for item in value]
    if (value is None or isinstance(value, (bool, int, float, str))) and value == value:  # NaN would never be equal
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be part of a fingerprint")


def places_of(value: Any) -> set[str]:
    """Names of a dataclass's fields that are places."""
    return {field.name for field in dataclasses.fields(value) if field.metadata.get("place")}


def without_places(found: Any, value: Any) -> Any:
    """The JSON data in a recipe, without the places of files. `value` is what `identity` would make such data of."""
    if dataclasses.is_dataclass(value) and isinstance(found, Mapping):
        kept = {name: item for name, item in found.items() if name not in places_of(value)}
        return {name: without_places(item, getattr(value, name, None)) for name, item in kept.items()}
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        return {name: without_places(item, value.get(name)) for name, item in found.items()}
    return found


def with_absent_fields(found: Any, value: Any) -> Any:
    """The same data, also with the defaults of the fields that it leaves out: two recipes mean the same if these are
    equal. A field that has got its default only later is in some recipes, and not in others."""
    if (
        dataclasses.is_dataclass(value)
        and isinstance(found, Mapping)
        and found.get("kind") == vars(type(value))["kind"]
    ):
        usual = {name: default for name, default in defaults_of(value).items() if name not in found}
        added = {name: with_absent_fields(identity(default), default) for name, default in usual.items()}
        return added | {name: with_absent_fields(item, getattr(value, name, None)) for name, item in found.items()}
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        return {name: with_absent_fields(item, value.get(name)) for name, item in found.items()}
    if isinstance(value, (list, tuple)) and isinstance(found, list) and len(value) == len(found):
        return [with_absent_fields(*both) for both in zip(found, value, strict=True)]
    return found


def deciding(value: Any) -> dict[str, dataclasses.Field[Any]]:
    """A dataclass's fields that decide the result, by name: all but the execution fields."""
    return {field.name: field for field in dataclasses.fields(value) if not field.metadata.get("execution")}


def defaults_of(value: Any) -> dict[str, Any]:
    """The defaults of these fields, by name, without those that have none."""
    found = {}
    for name, field in deciding(value).items():
        if field.default_factory is not dataclasses.MISSING:
            found[name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[name] = field.default
    return found


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change when anything in the recipe changes."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields in which two recipes differ, each as `field: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        sides = [(old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}".lstrip(".")) for key in keys]
        return [line for side in sides for line in differences(*side)]
    if old == new:
        return []
    return [f"{where}: {' -> '.join('absent' if value is ABSENT else json.dumps(value) for value in (old, new))}"]
