"""What a configuration says about its fields: their names on the command line, their types, values and docs."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Option:
    """One field of a configuration, or of a part of it."""

    name: str
    """The name on the command line, such as `train.learning-rate`."""
    type: Any
    value: Any
    doc: str
    """The field's docstring in one line; empty without one."""


def options_of(config: Any, prefix: str = "") -> Iterator[Option]:
    """All fields in their order, the fields of a part after the part itself."""
    kind: type = type(config)
    hints, docs = hints_of(kind), docs_of(kind)
    for item in fields(config):
        name, value = prefix + kebab(item.name), getattr(config, item.name)
        yield Option(name=name, type=hints[item.name], value=value, doc=docs.get(item.name, ""))
        if is_dataclass(value):
            yield from options_of(value, f"{name}.")


def choices_in(config: Any) -> list[Option]:
    """The fields with a choice among classes. A source is none of them: it is chosen by a subcommand."""
    return [option for option in options_of(config) if members_of(option.type) and option.name != "source"]


@cache
def hints_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def docs_of(kind: type) -> dict[str, str]:
    """The docstrings below a dataclass's fields, and below those of its bases. Python itself does not keep them."""
    docs = {}
    for owner in reversed(kind.__mro__[:-1]):
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):  # the class was not written in a file
            continue
        (body,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(body, ast.ClassDef)
        for item, doc in zip(body.body, body.body[1:]):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(doc, ast.Expr):
                docs[item.target.id] = " ".join(str(ast.literal_eval(doc.value)).split())
    return docs


def members_of(kind: Any) -> dict[str, type]:
    """The classes of a choice, such as a source, by their names on the command line; empty for any other type."""
    members = [member for member in get_args(kind) if is_dataclass(member)]
    return {kebab(member.__name__): member for member in members if isinstance(member, type)}


def default_of(item: Field) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def is_missing(value: Any) -> bool:
    """Whether a default says that the user must give the value, in the words of dataclasses or of tyro."""
    return value is MISSING or type(value).__module__.startswith("tyro")


def kebab(name: str) -> str:
    """`num_pairs` -> `num-pairs`; `LlavaJson` -> `llava-json`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower().replace("_", "-")
