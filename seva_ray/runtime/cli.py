"""What every file in `jobs/` shares: the command line of a config, presets, and errors as one line.

The first word may name a preset, whose values become the defaults: `python jobs/full.py llava-7b --train.beta 0.2`.
"""

import contextlib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import tyro

from seva_ray.core.errors import ConfigError, UserError
from seva_ray.runtime.signals import ending, stop_on_signals

Config = TypeVar("Config")

# Errors of the machine, not of the code: one line says all.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def run(job: Callable[[Config], None], presets: Mapping[str, Config], description: str) -> None:
    """Parse the command line, run the job. The first preset is the default.

    Exits with 2 after a line on standard error where the input, the configuration or the machine is at fault, with 130
    where it was interrupted, and with 143 or 129 after SIGTERM or SIGHUP.
    """
    quiet()
    stop_on_signals()
    words = sys.argv[1:]
    name = words.pop(0) if words and re.fullmatch(r"\w[\w-]*", words[0]) else next(iter(presets))
    about = f"{description}\n\nPresets (first word): {', '.join(presets)}; shown: {name}."

    def parse(words: Sequence[str]) -> Config:
        return tyro.cli(type(presets[name]), default=presets[name], args=words, description=about)

    try:
        if name not in presets:
            raise ConfigError(f"{name}: no preset of this name; there are {', '.join(presets)}")
        if words in (["--help"], ["-h"]):
            show_help(parse, sources_of(type(presets[name])))
        job(parse(words))
    except KeyboardInterrupt:
        line, status = ending()
        print(line, file=sys.stderr)
        sys.exit(status)
    except Exception as error:
        mendable = users_line(error)
        if mendable is None:
            raise
        print(f"error: {mendable}", file=sys.stderr)
        sys.exit(2)


def words_of(default: Any, config: Any, prefix: str = "") -> list[str]:
    """The words on the command line that make `config` from `default`, a config of the same class."""
    words, last = [], []
    for item in fields(config):
        value, usual = getattr(config, item.name), getattr(default, item.name, default_of(item))
        name = f"{prefix}{item.name}".replace("_", "-")
        if value == usual:
            continue
        if item.name == "source":  # a subcommand, which comes last
            same = usual if type(usual) is type(value) else None  # else what differs from its class's own is said
            last = [subcommand(type(value)), *words_of(same, value, "source.")]
        elif is_dataclass(value):
            words += words_of(usual, value, f"{name}.")
        elif isinstance(value, bool):
            group, _, field = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{group}{'.' if group else ''}no-{field}")
        elif isinstance(value, Mapping) and usual:  # tyro makes an option of each key that the default has
            words += [word for key in value for word in (f"--{name}.{key.replace('_', '-')}", str(value[key]))]
        elif isinstance(value, Mapping):
            words += [f"--{name}", *(str(part) for pair in value.items() for part in pair)]
        elif isinstance(value, tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return words + last


def default_of(item: Field) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def show_help(parse: Callable[[Sequence[str]], Any], sources: Sequence[str]) -> NoReturn:
    """Every field, those of each source too: tyro shows them only when the source is named."""
    for words in (["--help"], *([source, "--help"] for source in sources)):
        with contextlib.suppress(SystemExit):
            parse(words)
    sys.exit(0)


def sources_of(config: type) -> list[str]:
    """The words that choose a source on the command line."""
    members = get_args(get_type_hints(config).get("source"))
    return [subcommand(member) for member in members]


def subcommand(source: type) -> str:
    return "source:" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", source.__name__).lower()


def users_line(error: BaseException) -> str | None:
    """The line to show where a user can mend the cause, here or in a worker; None for a defect."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        inner = getattr(cause, "cause", None)  # of Ray's copy of a worker's error, whose text is the whole traceback
        if inner is None and isinstance(cause, UserError):
            return str(cause).splitlines()[0]  # Ray Data adds more lines
        if inner is None and isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS:
            return f"{cause.filename or 'storage'}: {cause.strerror}"
        context = None if cause.__suppress_context__ else cause.__context__
        of_train = [*getattr(cause, "worker_failures", {}).values(), getattr(cause, "controller_failure", None)]
        waiting += [inner, *of_train, cause.__cause__, context]
    return None


def quiet() -> None:
    """Libraries report what is wrong, and leave the rest to the stages' own lines. Workers inherit the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("seva_ray").setLevel(logging.INFO)
    for variable, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
