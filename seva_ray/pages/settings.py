"""Nested settings as rows of a table, for the pages and the model card."""

import json
from collections.abc import Mapping
from typing import Any


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Each setting under its dotted name; an empty group counts as one setting."""
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings as (dotted name, text): texts as they are, other values as JSON."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, default=str)) for name, value in flat(settings)
    ]
