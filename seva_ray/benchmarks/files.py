"""Published benchmark files -> plain rows with checked fields. An error is one line that names file, row and field.

In: a local path or an fsspec URI. Out: rows whose fields have been checked. Raises: InputError, in every function.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.listing import check_can_end
from seva_ray.core.records import Prompt
from seva_ray.core.storage import absolute, is_directory, locate

Item = TypeVar("Item")
MOST_BYTES = 2**30
"""Largest size of a file that is read as a whole, in bytes. That of MMBench is the largest of all, with 0.3 GB."""


def settle_paths(config: object, *names: str) -> None:
    """Make paths absolute, so that they mean the same in every worker. Raises: ConfigError if a path is empty."""
    for name in names:
        if not getattr(config, name):
            raise ConfigError(f"{name} {getattr(config, name)!r}: must not be empty")
        object.__setattr__(config, name, absolute(getattr(config, name)))


def check_image_root(benchmark: str, image_root: str | None) -> None:
    """Raises: InputError if the directory does not exist. A missing image in it makes only its own rows fail."""
    if image_root is None:
        return
    try:
        locate(image_root)
    except InputError as error:
        raise InputError(f"images of {benchmark}: {error}") from None
    if not is_directory(image_root):
        raise InputError(f"images of {benchmark}: {image_root}: no such directory")


def read_file(uri: str) -> bytes:
    try:
        filesystem, path = locate(uri)
        check_can_end(filesystem, path, uri)
        if (size := filesystem.size(path) or 0) > MOST_BYTES:
            raise InputError(f"{uri}: has {size:,} bytes, and no file of a benchmark has more than {MOST_BYTES:,}")
        return filesystem.cat_file(path)
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{uri}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_text(uri: str) -> str:
    try:
        return read_file(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: cannot be read as text: {error}") from None


def read_json(uri: str, kind: type[Item]) -> Item:
    """The content of the file. Its type must be `kind`: dict or list."""
    found = parse_json(read_text(uri), uri)
    if not isinstance(found, kind):
        raise InputError(f"{uri}: expected {'an object' if kind is dict else 'a list'}, got {brief(found)}")
    return found


def read_json_lines(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, row) for every line that is not blank."""
    for number, line in enumerate(read_text(uri).split("\n"), start=1):
        if line.strip():
            where = f"{uri}, row {number}"
            yield where, object_at(parse_json(line, where), where)


def parse_json(text: str, where: str) -> Any:
    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            times = Counter(key for key, _ in pairs)
            raise InputError(f"{where}: {brief(times.most_common(1)[0][0])} comes twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=object_of)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: {error}") from None


def object_at(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is not a JSON object")
    return value


def items_at(row: Mapping[str, Any], field: str, where: str) -> list[Any]:
    if not isinstance(row.get(field), list):
        raise InputError(f"{where}, {field}: expected a list, got {brief(row.get(field))}")
    return row[field]


def text_at(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text in a field, without white space around it. It must not be blank."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}, {field}: expected text, got {brief(value)}")
    return value.strip()


def id_at(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise InputError(f"{where}, {field}: expected a number or text, got {brief(value)}")
    return str(value)


def choice_at(row: Mapping[str, Any], field: str, allowed: Iterable[Hashable], where: str) -> Any:
    value, allowed = row.get(field), list(allowed)
    if isinstance(value, bool) or value not in allowed:
        listed = " or ".join([", ".join(map(str, allowed[:-1])), str(allowed[-1])]) if allowed[1:] else str(*allowed)
        raise InputError(f"{where}, {field}: expected {listed}, got {brief(value)}")
    return value


def image_at(row: Mapping[str, Any], field: str, where: str) -> str:
    """The path in a field. It must stay inside the image root."""
    path = text_at(row, field, where)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise InputError(f"{where}, {field}: expected a path inside the image root, got {path!r}")
    return path


def unique(rows: Iterable[tuple[str, str, Item]], field: str, path: str) -> dict[str, Item]:
    """The items of (where, id, item) by id. Raises: InputError if an id comes twice, or if there are no items."""
    found: dict[str, Item] = {}
    for where, item_id, item in rows:
        if item_id in found:
            raise InputError(f"{where}, {field}: {item_id} was already used in this file")
        found[item_id] = item
    if not found:
        raise InputError(f"{path}: has no questions")
    return found


def adjacent(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """The prompts, sorted so that those of one image are adjacent. Images keep the order of their first appearance."""
    by_image: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_image.setdefault(prompt.image_id, []).append(prompt)
    for group in by_image.values():
        yield from group


def brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
