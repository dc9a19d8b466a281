"""How the text files of sources are read: a JSON list, JSON lines, CSV. Every row comes out, also a broken one."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.sources.base import locate

LINES = (".jsonl", ".ndjson")
"""Suffixes of files that hold one JSON value per line."""


def json_rows(uri: str, lone: bool = False) -> Iterator[Any]:
    """The rows of a JSON list, or of a file with one row per line, which some people name `.json` too. A line that is
    not JSON gives the exception instead of a row. If `lone`, one object is a row too.

    A list is read as a whole, lines are read one by one. Raises: InputError if the file cannot be read as either.
    """
    filesystem, path = locate(uri)
    try:
        if not path.endswith(LINES):
            with filesystem.open(path, "rb") as file:
                yield from json_list(uri, file, lone)
                return
        with filesystem.open(path, "rb") as file:
            yield from json_lines(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{uri}: {'no such file' if isinstance(error, FileNotFoundError) else error}") from None


def json_list(uri: str, file: Any, lone: bool) -> Iterator[Any]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    try:
        rows = json.load(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):  # a second value after the first: one value per line
            raise
        file.seek(0)
        yield from json_lines(file)
        return
    if lone and isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise InputError(f"{uri}: must be a JSON list of rows, not {type(rows).__name__}")
    yield from rows


def json_lines(file: Any) -> Iterator[Any]:
    """The rows of a file with one JSON value per line. A line that is not JSON gives the exception instead of a row."""
    for number, line in enumerate(file):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield error


def csv_rows(uri: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV or TSV file with a header line. All values stay texts: `007` is not turned into a number.

    Raises: InputError if the file cannot be read.
    """
    filesystem, path = locate(uri)
    delimiter = "\t" if path.endswith(".tsv") else ","
    try:
        with filesystem.open(path, "rb") as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            yield from csv.DictReader(text, delimiter=delimiter, restkey="(more cells)")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{uri}: {'no such file' if isinstance(error, FileNotFoundError) else error}") from None
