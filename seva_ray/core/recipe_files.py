"""The two JSON files of an artifact, and what they say about the inputs that it was made from."""

import json
from collections.abc import Mapping
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.core.storage import exists, names_in, read_bytes

RECIPE, RECORD = "recipe.json", "record.json"

MADE_FROM = "made_from"
"""The key of the inputs' contents, beside the recipe and in the record."""

SKEW_S = 600.0
"""How far clocks of two machines may differ, in s. Records of older versions have nothing but the time to compare."""


def found_recipe(uri: str) -> Any:
    """The recipe that has taken the name of the artifact at `uri`; None if the name is free.

    Older versions wrote a recipe, without a newline at its end, before they knew whether any file would follow. If such
    a recipe is alone in its directory, the name is free.
    """
    try:
        text = read_bytes(f"{uri}/{RECIPE}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    by_older = not text.endswith(b"\n") and not exists(f"{uri}/{RECORD}")
    if by_older and names_in(uri) == {RECIPE}:
        return None
    return parsed(f"{uri}/{RECIPE}", text, f"remove {uri}, and the same command makes it again")


def parsed(uri: str, text: bytes, way_on: str) -> Any:
    """The JSON object in a file. Raises: InputError with the way on if the file was cut or is another one."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{uri}: is not the JSON that was written ({len(text):,} bytes); {way_on}")
    return found


def made_anew(found: Mapping[str, Any], made_from: Mapping[str, str], finished: Mapping[str, float]) -> list[str]:
    """The inputs whose contents are no longer those that an artifact was made from. `found` is its record, or what its
    recipe's file says; `finished` has the Unix time of each input whose contents are known.

    A record of an older version knows no contents. Then an input with known contents that was finished after the
    artifact was made anew, by this version.
    """
    if MADE_FROM not in found and "finished" in found and "files" not in found:
        return [name for name, time_s in finished.items() if time_s > found["finished"] + SKEW_S]
    before = found.get(MADE_FROM, {})
    return [name for name, contents in made_from.items() if before.get(name, contents) != contents]


def same_inputs(found: Mapping[str, str], known: Mapping[str, tuple[str, str]]) -> bool:
    """Whether a recipe's inputs are these, each by its fingerprint of this or of an older version."""
    return found.keys() == known.keys() and all(found[name] in known[name] for name in found)
