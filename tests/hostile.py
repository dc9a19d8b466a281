"""Files as an enemy or an accident would leave them: valid ones, changed at random from a seed."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WEIRD: list[Any] = [
    None, True, -1, 0, 10**400, -(2**63) - 1, 1e308, math.nan, math.inf, 0.5,
    "", " ", "\ud800", "\0", "\x1b[2J", "\r\n", "\u202e", "x" * 100_000, "../../../etc/passwd", "/etc/passwd",
    "%2e%2e/x", "file:///etc/passwd", "s3://bucket/key", "a::b", "<image>", "<script>alert(1)</script>", "=1+1", "@x",
    "{{ 1 }}", "{% for x in range(10**9) %}x{% endfor %}", "nan", "1e999", "yes\tno", '"', "'", "\\", "#2",
    [], {}, [[]], {"": None}, [None], {"bytes": None, "path": None}, [{}], {"a": {"a": {"a": {}}}}, ["x"] * 1000,
]  # fmt: skip
"""Values in the place of others."""

INSERTED = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n\n", b"\r", b"{", b"[" * 20_000, b'{"a":' * 20_000,
    b'"', b"\t", b",", b"\x80", b"NaN", b"1e999", b"9" * 5000, b"\xff\xda", b"\xff\xd8",
]  # fmt: skip
"""Bytes between others."""


def changed_value(value: Any, rng: random.Random) -> Any:
    """The JSON value with one part of it replaced, dropped, doubled or exchanged."""
    parts = list(places(value))
    if not parts:
        return rng.choice(WEIRD)
    value = json.loads(json.dumps(value))
    path = rng.choice(parts)
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    last = path[-1]
    kind = rng.randrange(4)
    if kind == 0 or (kind == 3 and not isinstance(holder, list)):
        holder[last] = rng.choice(WEIRD)
    elif kind == 1:
        del holder[last]
    elif kind == 2 and isinstance(holder, dict):
        holder[str(rng.choice(WEIRD))[:200]] = holder.pop(last)
    else:
        holder[last] = [holder[last], holder[last]]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all parts of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut, with some of them changed, or with others between them."""
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(min(end - at, 64)) + data[end:]
    if kind == 2:
        return data[:at] + rng.choice(INSERTED) + data[at:]
    if kind == 3:
        return data[:at] + data[end:]
    if kind == 4:
        return data[:end] + data[at:]
    flipped = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        if flipped:
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON file, or one of JSON lines, changed in its values or in its bytes."""
    if rng.random() < 0.3:
        return changed_bytes(data, rng)
    try:
        return json.dumps(changed_value(json.loads(data), rng)).encode("utf-8", "surrogatepass")
    except ValueError:
        lines = data.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed_value(json.loads(lines[at]), rng))
        return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


def change_one(folder: Path, rng: random.Random) -> str:
    """Change one file of a directory. Return its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    data = path.read_bytes()
    change = changed_json if path.suffix in (".json", ".jsonl") else changed_bytes
    path.write_bytes(change(data, rng))
    return str(path.relative_to(folder))
