"""Shared by every file in `jobs/`: a command line for a config, presets, and one-line errors.

The first word may name a preset. Its values become the defaults: `python jobs/full.py llava-7b --train.beta 0.2`.
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

# These are errors of the machine, not of the code, so one line is enough for them.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def run(job: Callable[[Config], None], presets: Mapping[str, Config], description: str) -> None:
    """Parse the command line and run the job. The first preset is the default.

    If the input, the configuration or the machine is at fault, print one line to standard error and exit with 2. Exit
    with 130 after Ctrl-C, with 143 after SIGTERM, and with 129 after SIGHUP.
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
            raise ConfigError(f"{name}: there is no preset of this name; the presets are {', '.join(presets)}")
        if words in (["--help"], ["-h"]):
            show_help(parse, sources_of(type(presets[name])))
        job(parse(words))
    except KeyboardInterrupt:
        line, status = ending()
        print(line, file=sys.stderr)
        sys.exit(status)
    except Exception as error:
        message = users_line(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def words_of(default: Any, config: Any, prefix: str = "") -> list[str]:
    """The command-line words that turn `default` into `config`. Both are configs of the same class."""
    words, last = [], []
    for item in fields(config):
        value, usual = getattr(config, item.name), getattr(default, item.name, default_of(item))
        name = f"{prefix}{item.name}".replace("_", "-")
        if value == usual:
            continue
        if item.name == "source":  # it is a subcommand, so it must come last
            same = usual if type(usual) is type(value) else None  # another class is compared with its own defaults
            last = [subcommand(type(value)), *words_of(same, value, "source.")]
        elif is_dataclass(value):
            words += words_of(usual, value, f"{name}.")
        elif isinstance(value, bool):
            group, _, field = name.rpartition(".")
            words.append(f"--{name}" if value else f"--{group}{'.' if group else ''}no-{field}")
        elif isinstance(value, Mapping) and usual:  # tyro makes an option for each key of the default
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
    """Print the help of every field, then that of each source: tyro shows a source's fields only if it is named."""
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
    """The line to show if the user can fix the cause of the error, here or in a worker. None for a bug in the code."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        # Ray's copy of a worker's error keeps the original in `cause`; its own text is the whole traceback.
        inner = getattr(cause, "cause", None)
        if inner is None and isinstance(cause, UserError):
            return str(cause).splitlines()[0]  # Ray Data appends more lines
        if inner is None and isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS:
            return f"{cause.filename or 'storage'}: {cause.strerror}"
        context = None if cause.__suppress_context__ else cause.__context__
        of_train = [*getattr(cause, "worker_failures", {}).values(), getattr(cause, "controller_failure", None)]
        waiting += [inner, *of_train, cause.__cause__, context]
    return None


def quiet() -> None:
    """Let libraries log only problems; the stages print the rest. Workers inherit these environment variables."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("seva_ray").setLevel(logging.INFO)
    for variable, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # this turns off Tune's tables
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
