"""How the text files of sources are read: a JSON list, JSON lines, CSV. Every row comes out, also a broken one."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.sources.base import locate

LINES = (".jsonl", ".ndjson")
"""Suffixes of files that hold one JSON value per line."""
WINDOW_CHARS = 2**20
"""Number of characters of a JSON list that are read at once."""
WHITE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


def json_rows(uri: str, lone: bool = False) -> Iterator[Any]:
    """The rows of a JSON list, or of a file with one row per line, which some people name `.json` too. A line that is
    not JSON gives the exception instead of a row. If `lone`, one object is a row too.

    Only some of the file is in memory. Raises: InputError if the file cannot be read as either.
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
    if has_one_value_per_line(text):
        file.seek(0)
        yield from json_lines(file)
        return
    text.seek(0)
    num_rows = 0
    try:
        for row in items_of(text):
            num_rows += 1
            yield row
        return
    except NotStreamed:
        text.seek(0)
    rows = json.load(text)  # this says what is wrong and where
    if lone and isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise InputError(f"{uri}: must be a JSON list of rows, not {type(rows).__name__}")
    yield from rows[num_rows:]


def has_one_value_per_line(text: io.TextIOWrapper) -> bool:
    """Whether the first line is a whole value, and more follows."""
    try:
        json.loads(text.readline(WINDOW_CHARS))
    except (ValueError, RecursionError):
        return False
    return bool(Window(text).skip())


class NotStreamed(Exception):
    """The text is no list, or a broken one. `json.load` says what it is, or where it is broken."""


def items_of(text: io.TextIOWrapper) -> Iterator[Any]:
    """The items of a JSON list, with only some of the text in memory. Raises: NotStreamed."""
    window = Window(text)
    if window.skip() != "[":
        raise NotStreamed
    window.place += 1
    if window.skip() == "]":
        window.place += 1
    else:
        ended = False
        while not ended:
            yield window.value()
            mark = window.skip()
            if mark not in (",", "]"):
                raise NotStreamed
            window.place += 1
            ended = mark == "]"
    if window.skip():
        raise NotStreamed


class Window:
    """A part of a text, and a place in it. It moves on as the text is read."""

    def __init__(self, text: io.TextIOWrapper):
        self.text, self.part, self.place = text, "", 0

    def skip(self) -> str:
        """Move to the next character that is no white space, and return it; an empty text at the end."""
        while True:
            self.place = WHITE.match(self.part, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.part):
                return self.part[self.place]
            if not self.read(WINDOW_CHARS):
                return ""

    def value(self) -> Any:
        """The value that begins here. A value is whole only if something follows it: 12 may go on as 123."""
        self.skip()
        size = WINDOW_CHARS
        while True:
            try:
                value, end = DECODER.raw_decode(self.part, self.place)
                if end < len(self.part):
                    self.place = end
                    return value
            except json.JSONDecodeError:
                pass
            if not self.read(size):
                raise NotStreamed
            size *= 2

    def read(self, size: int) -> bool:
        """Read more text, and forget what lies behind the place. Returns whether there is more."""
        more = self.text.read(size)
        self.part, self.place = self.part[self.place :] + more, 0
        return bool(more)


def json_lines(file: Any) -> Iterator[Any]:
    """The rows of a file with one JSON value per line. A line that is not JSON gives the exception instead of a row."""
    for number, line in enumerate(file):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            try:
                yield json_value(line)
            except (ValueError, RecursionError) as error:
                yield error


def json_value(line: bytes) -> Any:
    """The same as `json.loads`, in half of the time for a line of UTF-8."""
    try:
        text = line.decode().strip(" \t\n\r")
        value, end = DECODER.raw_decode(text)
        if end == len(text):
            return value
    except ValueError:
        pass
    return json.loads(line)  # this says what is wrong, and reads other encodings


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
