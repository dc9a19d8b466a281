"""`--help`: the options that people set, in groups. `--help-all` shows all of them, by tyro."""

import shutil
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from seva_ray.runtime.fields import (
    Option,
    choices_in,
    default_of,
    docs_of,
    hints_of,
    is_missing,
    kebab,
    members_of,
    options_of,
)

COLUMN = 36
"""The column in which the text beside an option begins."""


def short_help(command: str, about: str, config: Any, usual: Collection[str]) -> str:
    """`command` is what is typed before the options. `config` is what holds if no option is given. Its own fields are
    shown, and of its parts those in `usual`."""
    choices = [option.name for option in choices_in(config)]
    options = [option for option in options_of(config) if not is_dataclass(option.value) or option.name in choices]
    source = next((option for option in options_of(config) if option.name == "source"), None)
    words = " [source:KIND [ITS OPTIONS]]" if source else ""
    lines = [f"usage: {command} [OPTIONS]{words}", "", *about.splitlines()]
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.name.rpartition(".")[0].partition(".")[0], []).append(option)
    groups.pop("source", None)
    shown = {group: [option for option in own if not group or option.name in usual] for group, own in groups.items()}
    for group, own in shown.items():
        if own:
            lines += ["", group or "options", *(line for option in own for line in entry(option))]
            if more := len(groups[group]) - len(own):
                lines.append(f"  and {more} more of --{group}.*")
    if source:
        lines += ["", f"source, in the last words ({source.doc})"]
        lines += [line for name, kind in members_of(source.type).items() for line in member(name, kind, source, usual)]
    hidden = [f"{group} ({len(groups[group])})" for group, own in shown.items() if not own]
    if hidden:
        lines += ["", *textwrap.wrap(f"More groups of options: {', '.join(hidden)}.", width())]
    files = "--config FILE reads options from a YAML file; --print-config prints such a file."
    return "\n".join([*lines, "", files, "--help-all shows every option."])


def member(name: str, kind: type, source: Option, usual: Collection[str]) -> Iterator[str]:
    """The lines of one kind of source."""
    yield from beside(f"source:{name}", first_sentence(" ".join((kind.__doc__ or "").split())))
    for item in fields(kind):
        option = Option(
            name=f"source.{kebab(item.name)}",
            type=hints_of(kind)[item.name],
            value=getattr(source.value, item.name) if type(source.value) is kind else default_of(item),
            doc=docs_of(kind).get(item.name, ""),
        )
        if option.name in usual:
            yield from entry(option, "    ")


def entry(option: Option, indent: str = "  ") -> list[str]:
    """The lines of one option: its name and type, and beside them the first sentence of its doc and its value."""
    name = f"--{option.name} {metavar(option.type)}"
    if option.type is bool:
        group, _, own = option.name.rpartition(".")
        name = f"--{option.name}, --{group}{'.' if group else ''}no-{own}"
    return beside(name, f"{first_sentence(option.doc)} {value_of(option.value)}", indent)


def beside(name: str, text: str, indent: str = "  ") -> list[str]:
    wrapped = textwrap.wrap(text, width() - COLUMN)
    head = indent + name
    if len(head) < COLUMN and wrapped:
        head, wrapped = f"{head:{COLUMN}}{wrapped[0]}", wrapped[1:]
    heads = [head]
    if len(head) > width():  # many choices
        heads = textwrap.wrap(name.replace(",", ", "), width(), initial_indent=indent, subsequent_indent=indent * 2)
    return [*heads, *(" " * COLUMN + line for line in wrapped)]


def value_of(value: Any) -> str:
    if is_missing(value):
        return "(required)"
    if is_dataclass(value):
        return f"(default: {kebab(type(value).__name__)})"
    words = value if isinstance(value, (list, tuple)) else [value]
    text = " ".join(map(str, words))
    return f"(default: {text if len(text) < 60 else text[:57] + '...'})" if text else "(default: empty)"


def metavar(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if members := members_of(kind):
        return f"{{{','.join(members)}}}"
    if origin in (Union, UnionType):
        return "|".join("None" if argument is NoneType else metavar(argument) for argument in arguments)
    if origin is Literal:
        return f"{{{','.join(map(str, arguments))}}}"
    if origin is tuple:
        return f"{metavar(arguments[0])} ..." if arguments[-1] is Ellipsis else " ".join(map(metavar, arguments))
    if origin is dict:
        return "KEY VALUE ..."
    return kind.__name__.upper()


def first_sentence(doc: str) -> str:
    """Up to the first full stop or semicolon outside brackets."""
    depth = 0
    for place, letter in enumerate(doc):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter in ".;" and doc[place + 1 : place + 2] in ("", " "):
            return doc[:place] + "."
    return doc


def width() -> int:
    return max(80, min(shutil.get_terminal_size().columns, 110))
