"""What a result follows from, as plain data, and a fingerprint of it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

EXECUTION = {"execution": True}
"""Metadata of a config field that says where and how fast, not what: it is left out of the fingerprint."""


def execution(default: Any) -> Any:
    """A dataclass field that does not change the result (workers, batch per device, paths of scratch space)."""
    return dataclasses.field(default=default, metadata=EXECUTION)


def identity(value: Any) -> Any:
    """`value` as JSON data: what its results depend on, so without the execution fields of dataclasses.

    Raises: TypeError for a value whose identity is not plain data.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if not field.metadata.get("execution")]
        return {"kind": type(value).__name__} | {field.name: identity(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    if (value is None or isinstance(value, (bool, int, float, str))) and value == value:  # NaN equals no recipe
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} has no place in a fingerprint")


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change when anything in the recipe does."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


ABSENT = object()


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The leaves in which two recipes differ, as `field: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        sides = [(old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}".lstrip(".")) for key in keys]
        return [line for side in sides for line in differences(*side)]
    if old == new:
        return []
    return [f"{where}: {' -> '.join('absent' if value is ABSENT else json.dumps(value) for value in (old, new))}"]
