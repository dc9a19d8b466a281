"""A configuration as a YAML file: `--print-config` writes one, `--config` reads one over a preset.

Keys are the names of fields. A part, such as `train`, is a mapping of its own. A choice, such as `source`, has the key
`kind`, which names the member as the command line does: `source: {kind: folder, path: photos}`.
"""

import contextlib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from seva_ray.core.errors import ConfigError, InputError, UserError, suggestion
from seva_ray.core.storage import read_bytes
from seva_ray.runtime.fields import default_of, docs_of, hints_of, kebab, members_of

KIND = "kind"
"""The key that names the member of a choice."""

EXPECTED = {str: "a text (in quotes if it looks like a number or a date)", int: "a whole number", float: "a number"}


def load(path: str, config: Any) -> Any:
    """`config` with the values of a YAML file, which may be at an fsspec URI.

    Raises: InputError if the file cannot be read; ConfigError for a key or a value that cannot work, naming both.
    """
    try:
        values = yaml.load(read_bytes(path), Loader=UniqueKeys)
    except OSError as error:
        raise InputError(f"config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from None
    with prefixed(path):
        return updated(type(config), config, {} if values is None else values, "")


class UniqueKeys(yaml.SafeLoader):
    """Reads plain data, and refuses a key that comes twice: YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} comes twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def updated(kind: type, now: Any, values: Any, where: str) -> Any:
    """A dataclass with some fields of other values: of `now`, or of a new one if that is None."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the file'}: expected fields with their values, got {values!r}")
    items = {item.name: item for item in fields(kind)}
    changes = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in items:
            raise ConfigError(f"{joined(where, key)}: no such field{suggestion(name, list(items))}")
        before = default_of(items[name]) if now is None else getattr(now, name)
        changes[name] = converted(hints_of(kind)[name], before, value, joined(where, name))
    with prefixed(where):
        if now is not None:
            return replace(now, **changes)
        missing = [name for name, item in items.items() if default_of(item) is MISSING and name not in changes]
        if missing:
            raise ConfigError(f"{', '.join(missing)}: must be given")
        return kind(**changes)


def converted(kind: Any, before: Any, value: Any, where: str) -> Any:
    """What YAML read, as a value of the type `kind`; `before` is what it replaces."""
    if members := members_of(kind):
        return chosen(members, before, value, where)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return updated(kind, before, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else converted(kind, before, value, where)
    if origin is Literal:
        if not any(value == argument and type(value) is type(argument) for argument in arguments):
            allowed = ", ".join(map(str, arguments))
            raise ConfigError(f"{where}: must be one of {allowed}, got {value!r}{suggestion(value, arguments)}")
        return value
    if origin is tuple:
        return items_of(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected names with values, got {value!r}")
        key_kind, value_kind = arguments
        pairs = [(converted(key_kind, None, key, where), key, item) for key, item in value.items()]
        return {name: converted(value_kind, None, item, joined(where, key)) for name, key, item in pairs}
    if kind is float and type(value) in (int, str):
        with contextlib.suppress(ValueError):  # YAML takes 1e-4, without a point, for a text
            number = float(value)
            return before if number == before else number
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {EXPECTED.get(kind, 'true or false')}, got {value!r}")
    return value


def chosen(members: Mapping[str, type], before: Any, value: Any, where: str) -> Any:
    """A choice: another member starts with its own defaults."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected fields with their values, among them {KIND}, got {value!r}")
    name = value.get(KIND, kebab(type(before).__name__))
    if name not in members:
        raise ConfigError(f"{joined(where, KIND)}: must be one of {', '.join(members)}{suggestion(name, [*members])}")
    rest = {key: item for key, item in value.items() if key != KIND}
    return updated(members[name], before if type(before) is members[name] else None, rest, where)


def items_of(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    """A list as a tuple: of any length if `kinds` ends with `...`."""
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, such as [a, b], got {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    elif len(kinds) != len(value):
        raise ConfigError(f"{where}: expected {len(kinds)} values, got {value!r}")
    return tuple(converted(kind, None, item, where) for kind, item in zip(kinds, value, strict=True))


def joined(where: str, name: Any) -> str:
    return f"{where}.{name}".lstrip(".")


@contextlib.contextmanager
def prefixed(where: str) -> Iterator[None]:
    """An error inside says where it is."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def text_of(config: Any, title: str) -> str:
    """The file that `load` reads: every field with its value, below its doc."""
    return "\n".join([f"# {title}", *lines_of(config)])


def lines_of(config: Any, indent: str = "") -> Iterator[str]:
    kind: type = type(config)
    docs, hints = docs_of(kind), hints_of(kind)
    for item in fields(config):
        value = getattr(config, item.name)
        yield from textwrap.wrap(
            docs.get(item.name, ""), 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        if not is_dataclass(value):
            yield f"{indent}{item.name}: {written(value)}"
            continue
        yield f"{indent}{item.name}:"
        if members_of(hints[item.name]):
            yield f"{indent}  {KIND}: {kebab(type(value).__name__)}"
        yield from lines_of(value, f"{indent}  ")


def written(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(key)}: {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)  # with \n and the like escaped; YAML reads it
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=float("inf"))[1:-2]
