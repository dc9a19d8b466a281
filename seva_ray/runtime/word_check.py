"""Mistakes on the command line, each as one line that names the word and says what helps. tyro reads the words after
this check; its own message is a box of up to 35 lines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from seva_ray.core.errors import ConfigError, suggestion
from seva_ray.runtime.fields import default_of, hints_of, is_missing, kebab, members_of, options_of

NUMBERS = {int: "a whole number", float: "a number"}
TYROS_OWN = ("tyro-print-completion", "tyro-write-completion")


def check_words(config: Any, words: Sequence[str]) -> None:
    """Check the words that follow a preset. `config` holds the values of the options that are not given.

    Raises: ConfigError for an unknown or misplaced option or source, and for a value that is missing, left over or of
    another type.
    """
    kind: type = type(config)
    members = members_of(hints_of(kind).get("source"))
    sources = {f"source:{name}": kind for name, kind in members.items()}
    types = types_of_job(config)
    place = next((number for number, word in enumerate(words) if sources and word.startswith("source:")), len(words))
    of_sources = {name for kind in sources.values() for name in types_of_source(kind)}
    before = list(given(words[:place]))
    for name, values in before:
        if name in of_sources and name not in types:
            advice = "name the source before it, as in `source:folder --source.path photos`"
            raise ConfigError(f"--{name}: is an option of a source; {advice}")
        check_values(name, values, types)
    names = {name for name, _ in before}
    for option in options_of(config):
        if is_missing(option.value) and option.name not in names:
            raise ConfigError(f"--{option.name}: must be given")
    if place == len(words):
        return
    word, own = words[place], list(given(words[place + 1 :]))
    if word not in sources:
        raise ConfigError(f"{word}: must be one of {', '.join(sources)}{suggestion(word, sources)}")
    types_of_own = types_of_source(sources[word])
    for name, values in own:
        if name in types and name not in types_of_own:
            raise ConfigError(f"--{name}: write this option before {word}; only options of the source follow that word")
        check_values(name, values, types_of_own)
    names = {name for name, _ in own}
    for item in fields(sources[word]):
        name = f"source.{kebab(item.name)}"
        if is_missing(default_of(item)) and name not in names and type(config.source) is not sources[word]:
            raise ConfigError(f"--{name}: must be given after {word}")


def types_of_job(config: Any) -> dict[str, Any]:
    """The type of each option that comes before a source, by its name."""
    types: dict[str, Any] = {}
    for option in options_of(config):
        if option.name.partition(".")[0] == "source" or is_dataclass(option.value):
            continue
        types |= types_of_field(option.name, option.type, option.value)
    return types


def types_of_source(kind: type) -> dict[str, Any]:
    """The type of each option of one kind of source, by its name."""
    types: dict[str, Any] = {}
    for item in fields(kind):
        types |= types_of_field(f"source.{kebab(item.name)}", hints_of(kind)[item.name], default_of(item))
    return types


def types_of_field(name: str, kind: Any, value: Any) -> dict[str, Any]:
    """tyro makes one option of a field, or one for each key that is in a mapping already."""
    if isinstance(value, Mapping) and value:
        return {f"{name}.{kebab(key)}": get_args(kind)[1] for key in value}
    return {name: kind}


def given(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option with its values. Raises: ConfigError for values without an option."""
    name, values = "", list[str]()
    for word in [*words, "--"]:
        if not word.startswith("--"):
            values.append(word)
            continue
        if name:
            yield name, values
        elif values:
            raise ConfigError(f"{values[0]}: this word belongs to no option; the names of options begin with --")
        name, equals, value = word.removeprefix("--").partition("=")
        name, values = name.replace("_", "-"), [value] if equals else []


def check_values(name: str, values: Sequence[str], types: Mapping[str, Any]) -> None:
    """Raises: ConfigError if there is no option of this name, or if it cannot have these values."""
    if name in TYROS_OWN:
        return
    group, _, own = name.rpartition(".")
    positive = f"{group}.{own.removeprefix('no-')}".lstrip(".")
    kind = types.get(name, types.get(positive) if types.get(positive) is bool else None)
    if kind is None:
        near = suggestion(f"--{name}", [f"--{known}" for known in types])
        raise ConfigError(f"--{name}: there is no such option{near}; --help-all lists every option")
    if fault := fault_of(kind, values):
        raise ConfigError(f"--{name}: {fault}")


def fault_of(kind: Any, values: Sequence[str]) -> str:
    """What is wrong with the values of an option; empty if nothing is, or if only tyro can say it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if list(values) == ["None"]:
            return ""
        kinds = [argument for argument in arguments if argument is not NoneType]
        return fault_of(kinds[0], values) if len(kinds) == 1 else ""
    if origin is tuple:
        variadic = arguments[-1] is Ellipsis
        if not variadic and len(values) != len(arguments):
            return f"takes {len(arguments)} values, not {len(values)}"
        each = [arguments[0]] * len(values) if variadic else arguments
        return next(filter(None, map(fault_of_one, each, values)), "")
    if origin is dict:
        return ""
    if kind is bool:
        return f"takes no value, so {values[0]} is left over" if values else ""
    if len(values) > 1:
        return (
            f"takes one value, so {values[1]} is left over; put quotes around a value with spaces, and a preset first"
        )
    return fault_of_one(kind, values[0]) if values else "needs a value"


def fault_of_one(kind: Any, value: str) -> str:
    if get_origin(kind) is Literal:
        known = [str(argument) for argument in get_args(kind)]
        return "" if value in known else f"{value}: must be one of {', '.join(known)}{suggestion(value, known)}"
    if kind in NUMBERS:
        try:
            kind(value)
        except ValueError:
            return f"{value}: must be {NUMBERS[kind]}"
    return ""
