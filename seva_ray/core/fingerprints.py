"""Everything that a result depends on, as plain data, and a fingerprint of it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("first_recipes.json").read_text())
"""The fields that the first version wrote into recipes, by kind, with their defaults. It is never changed."""

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
    recipes as before. For the same reason a field in FIRST that the class has lost is written with its old default.
    So the default of a field must never change: a field with another default needs another name.

    Raises: TypeError for a value whose identity is not plain data, and for a dataclass without a kind.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = vars(type(value)).get("kind")
        if not isinstance(kind, str):
            raise TypeError(f"{type(value).__name__} has no constant `kind`, which names it in recipes")
        first = FIRST.get(kind, {})
        fields = [field for field in dataclasses.fields(value) if not field.metadata.get("execution")]
        now = {field.name: getattr(value, field.name) for field in fields}
        usual = {field.name: default_of(field) for field in fields}
        written = {name: identity(item, places) for name, item in now.items() if name in first or item != usual[name]}
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


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, or MISSING if it has none. MISSING equals no value."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change when anything in the recipe changes."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


ABSENT = object()


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields in which two recipes differ, each as `field: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        sides = [(old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}".lstrip(".")) for key in keys]
        return [line for side in sides for line in differences(*side)]
    if old == new:
        return []
    return [f"{where}: {' -> '.join('absent' if value is ABSENT else json.dumps(value) for value in (old, new))}"]
