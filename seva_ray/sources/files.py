"""How the text files of sources are read: a JSON list, JSON lines, CSV. Every row comes out, also a broken one.

Suffixes may be in upper case. A file may be compressed (.gz, .bz2, .xz), which its last suffix says.
"""

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from seva_ray.core.errors import InputError
from seva_ray.core.listing import check_can_end
from seva_ray.core.storage import locate

LINES = (".jsonl", ".ndjson")
"""Suffixes of files that hold one JSON value per line."""
TABLES = (".csv", ".tsv")
TEXTS = (".json", *LINES, *TABLES)
"""Suffixes of files with rows as text."""
COMPRESSED = (".gz", ".bz2", ".xz")
DELIMITERS = (",", "\t", ";", "|")
MAX_CELL_CHARS = 2**27
"""Largest number of characters in a cell of a CSV file, which may be an image in base64."""
BROKEN = (OSError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError, csv.Error)
"""What reading a text file, compressed or not, raises if it is broken."""
MOST_OF_A_ROW = 2**28
"""Largest number of bytes of a row in a text file. An image in base64 takes a tenth of it."""
WINDOW_CHARS = 2**20
"""Number of characters of a JSON list that are read at once."""
WHITE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


def plain(path: str) -> str:
    """The path in small letters, without the suffix of a compression: its suffix says how the file is read."""
    path = path.lower()
    if path.endswith(".tgz"):
        return f"{path[:-4]}.tar"
    return next((path.removesuffix(suffix) for suffix in COMPRESSED if path.endswith(suffix)), path)


def text_rows(uri: str) -> Iterator[Any]:
    """The rows of a file with one of the suffixes TEXTS."""
    return csv_rows(uri) if plain(uri).endswith(TABLES) else json_rows(uri)


def unreadable(uri: str, error: Exception) -> InputError:
    """One line on a file that cannot be read, with what helps."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{uri}: no such file")
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{uri}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8")
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, json.JSONDecodeError):
        cut = error.pos >= len(error.doc.rstrip()) > 0
        advice = "the file ends too early: is it a whole copy?" if cut else "it must be a JSON list, or JSON lines"
        return InputError(f"{uri}: is not valid JSON ({line}); {advice}")
    return InputError(f"{uri}: {line}")


def json_rows(uri: str, lone: bool = False) -> Iterator[Any]:
    """The rows of a JSON list, or of a file with one row per line, which some people name `.json` too. A line that is
    not JSON gives the exception instead of a row. If `lone`, one object is a row too.

    Only some of the file is in memory. Raises: InputError if the file cannot be read as either.
    """
    filesystem, path = locate(uri)
    check_can_end(filesystem, path, uri)
    try:
        with filesystem.open(path, "rb", compression="infer") as file:
            yield from json_lines(file) if plain(path).endswith(LINES) else json_list(uri, file, lone)
    except BROKEN as error:
        raise unreadable(uri, error) from None


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
    if isinstance(rows, dict):
        rows = [rows] if lone else list_in(rows)
    if not isinstance(rows, list):
        fields = f" (its fields: {shown(rows)})" if isinstance(rows, dict) else ""
        raise InputError(f"{uri}: must be a JSON list of rows, not {type(rows).__name__}{fields}")
    yield from rows[num_rows:]


def list_in(value: dict[str, Any]) -> Any:
    """The only list of objects in an object such as {info, data: [...]}; the object itself if it has none, or more."""
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    return lists[0] if len(lists) == 1 else value


def shown(names: Iterable[Any], limit: int = 12) -> str:
    """The first names, and how many there are beside them."""
    every = list(names)
    more = f", ... ({len(every):,} in all)" if len(every) > limit else ""
    return ", ".join(str(name)[:60] for name in every[:limit]) + more


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
        if "\0" in more:  # no JSON has one; a file with a hole has billions of them
            raise ValueError("a zero byte, as in UTF-16, or in a file that was not written to its end")
        self.part, self.place = self.part[self.place :] + more, 0
        if len(self.part) > MOST_OF_A_ROW:
            raise ValueError(f"a row has more than {MOST_OF_A_ROW:,} characters")
        return bool(more)


def lines_of(file: Any) -> Iterator[Any]:
    """The lines of a file of bytes or of text. Raises: ValueError for a line that is too long to be a row."""
    for number, line in enumerate(iter(partial(file.readline, MOST_OF_A_ROW + 1), file.read(0)), 1):
        if len(line) > MOST_OF_A_ROW:
            raise ValueError(f"line {number:,} has more than {MOST_OF_A_ROW:,} bytes")
        yield line


def json_lines(file: Any) -> Iterator[Any]:
    """The rows of a file with one JSON value per line. A line that is not JSON gives the exception instead of a row."""
    for number, line in enumerate(lines_of(file)):
        if number == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if (place := line.find(b"\0")) >= 0:  # in UTF-16, whose lines end elsewhere, some rows would seem fine
                raise UnicodeDecodeError("utf-8", line, place, place + 1, "a zero byte, as in UTF-16")
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

    Cells are separated by commas (by tabs in a .tsv file), or by what the header has instead: a semicolon, a tab, a
    bar. Raises: InputError if the file cannot be read.
    """
    filesystem, path = locate(uri)
    check_can_end(filesystem, path, uri)
    try:
        with filesystem.open(path, "rb", compression="infer") as file:
            csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARS))  # of the whole process, and only larger
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            header = text.readline(WINDOW_CHARS)
            text.seek(0)
            own = "\t" if plain(path).endswith(".tsv") else ","
            delimiter = own if own in header else max(DELIMITERS, key=header.count)
            lines = lines_of(text)
            yield from csv.DictReader(lines, delimiter=delimiter, restkey="(more cells)", skipinitialspace=True)
    except BROKEN as error:
        raise unreadable(uri, error) from None
