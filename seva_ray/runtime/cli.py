"""Shared by every file in `jobs/`: a command line for a config, presets, and one-line errors.

The first word may name a preset. Its values become the defaults: `python jobs/full.py llava-7b --train.beta 0.2`.
`--config FILE` puts the values of a YAML file over the preset's, and the other words win over both.
"""

import contextlib
import errno
import io
import logging
import os
import re
import select
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from seva_ray.core.device_errors import device_line
from seva_ray.core.errors import ConfigError, UserError, suggestion
from seva_ray.core.patience import storage_line
from seva_ray.private.ray import errors_within, raised_in_constructor
from seva_ray.runtime.config_file import load, text_of
from seva_ray.runtime.console import COMMAND
from seva_ray.runtime.fields import choices_in, default_of, hints_of, kebab, members_of
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.home import use_other_places
from seva_ray.runtime.progress import say
from seva_ray.runtime.short_help import short_help
from seva_ray.runtime.signals import ending, stop_on_signals, was_interrupted
from seva_ray.runtime.word_check import check_words

Config = TypeVar("Config")
PRINT_COMPLETION = "--tyro-print-completion"
"""tyro's own option: it prints a script for the shell."""

# These are errors of the machine, not of the code, so one line is enough for them.
MACHINE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def run(
    job: Callable[[Config], Any], presets: Mapping[str, Config], description: str, usual: Collection[str] = ()
) -> None:
    """Read the command line and run the job. The first preset is the default. `--help` shows the job's own fields, and
    those in `usual`, which are named as on the command line, such as `train.beta`.

    If the input, the configuration or the machine is at fault, print one line to standard error and exit with 2. Exit
    with 130 after Ctrl-C, with 143 after SIGTERM, and with 129 after SIGHUP. If the reader of the output has left, as
    `head` does, print nothing more and exit with 141, as other programs do.
    """
    quiet()
    stop_on_signals()
    try:
        use_other_places()
        config, title = read(presets, description, usual)
        if root := getattr(config, "root", ""):
            place = root if "://" in root else Path(root).expanduser().resolve()
            say(f"{title}: root {place}")
        with waiting(f"{Path(sys.argv[0]).stem}: working"):
            job(config)
        sys.stdout.flush()
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, BrokenPipeError) and readers_left():
            end_quietly(128 + signal.SIGPIPE)
        if was_interrupted(error):
            line, status = ending()
            print(line, file=sys.stderr)
            sys.exit(status)
        message = users_line(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def read(presets: Mapping[str, Config], description: str, usual: Collection[str]) -> tuple[Config, str]:
    """The config that the command line asks for, and a title for its run: the job and the name of what it makes. After
    `--help`, `--help-all` and `--print-config` it exits. Raises: ConfigError, InputError."""
    words = sys.argv[1:]
    name = words.pop(0) if words and re.fullmatch(r"\w[\w.-]*", words[0]) else next(iter(presets))
    script = Path(sys.argv[0])
    typed = f"python -m bench.{script.stem}" if script.parent.name == "bench" else f"python jobs/{script.name}"
    command = os.environ.pop(COMMAND, "") or typed
    if name not in presets:
        known = f"the presets are {', '.join(presets)}{suggestion(name, presets)}"
        raise ConfigError(f"{name}: there is no preset of this name; {known}")
    file, words = taken(words, "--config", "name a file")
    preset, words = with_choices(presets[name] if file is None else load(file, presets[name]), words)
    known = f"Presets (first word): {', '.join(presets)}; shown: {name}." if len(presets) > 1 else ""
    about = f"{description}\n\n{textwrap.fill(known, 108, break_on_hyphens=False)}".strip()

    program = None
    if PRINT_COMPLETION in words and command.startswith("seva "):
        program, variable = command, command.replace(" ", "_presets_").replace("-", "_")
        print(f"_{variable}={shlex.quote(' '.join(presets))}")

    def parse(words: Sequence[str]) -> Config:
        return tyro.cli(type(preset), default=preset, args=words, description=about, prog=program)

    sources = sources_of(type(preset))
    with until_closed():
        if "--help-all" in words:
            show_help(parse, sources, preset)
        if {"--help", "-h"}.intersection(words) and not set(sources).intersection(words):
            words_before = f"{command} [PRESET]" if known else command
            print(short_help(words_before, about, preset, usual))
            sys.exit(0)
        rest = [word for word in words if word != "--print-config"]
        if not {"--help", "-h", PRINT_COMPLETION}.intersection(rest):
            check_words(preset, rest)
        config = parse(rest)
        if "--print-config" in words:
            print(text_of(config, f"{command} --config THIS_FILE"))
            sys.exit(0)
    return config, f"{script.stem} {getattr(config, 'name', '') or name}"


@contextlib.contextmanager
def until_closed() -> Iterator[None]:
    """End the process quietly, and as a success, if the reader of its output, such as `head`, has read enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_quietly(0)


def readers_left() -> bool:
    """Whether the reader of standard output or standard error, such as `head`, has closed it."""
    poll = select.poll()
    for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def end_quietly(status: int) -> NoReturn:
    """Exit without another word to readers that have left."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more at its end
    sys.exit(status)


def taken(words: Sequence[str], option: str, advice: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the other words. Raises: ConfigError with the advice if the value is missing."""
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2], [*words[:place], *words[place + 1 :]]
        if word == option:
            if place + 1 == len(words) or words[place + 1].startswith("--"):
                raise ConfigError(f"{option}: {advice}")
            return words[place + 1], [*words[:place], *words[place + 2 :]]
    return None, list(words)


def with_choices(config: Any, words: Sequence[str]) -> tuple[Any, list[str]]:
    """The config with the members that words such as `--generate.engine fake-engine` choose, and the other words.

    Another member has its own defaults. Raises: ConfigError if there is no such member.
    """
    for option in choices_in(config):
        members = members_of(option.type)
        name, words = taken(words, f"--{option.name}", f"name one of {', '.join(members)}")
        if name is not None and name not in members:
            raise ConfigError(f"--{option.name} {name}: must be one of {', '.join(members)}")
        if name is not None and type(option.value) is not members[name]:
            config = with_value(config, option.name.replace("-", "_").split("."), members[name]())
    return config, list(words)


def with_value(config: Any, path: Sequence[str], value: Any) -> Any:
    """The config with another value of the field that is reached by the names in `path`."""
    first, *rest = path
    return replace(config, **{first: with_value(getattr(config, first), rest, value) if rest else value})


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
            last = [f"source:{kebab(type(value).__name__)}", *words_of(same, value, "source.")]
        elif is_dataclass(value):
            same = usual if type(usual) is type(value) else None
            words += [] if same is not None else [f"--{name}", kebab(type(value).__name__)]
            words += words_of(same, value, f"{name}.")
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


def show_help(parse: Callable[[Sequence[str]], Any], sources: Sequence[str], config: Any) -> NoReturn:
    """Print the help of every field, then that of each source: tyro shows a source's fields only if it is named, and no
    choice among other members at all."""
    for option in choices_in(config):
        print(f"--{option.name} {{{','.join(members_of(option.type))}}}: {option.doc}")
    for words in (["--help"], *([source, "--help"] for source in sources)):
        with contextlib.suppress(SystemExit):
            parse(words)
    sys.exit(0)


def sources_of(config: type) -> list[str]:
    """The words that choose a source on the command line."""
    return [f"source:{name}" for name in members_of(hints_of(config).get("source"))]


def users_line(error: BaseException) -> str | None:
    """The line to show if the user can fix the cause of the error, here or in a worker. None for a bug in the code."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        within = errors_within(cause)  # if there are any, the error's own text is their whole traceback
        if not within and isinstance(cause, UserError):
            return str(cause).splitlines()[0]  # Ray Data appends more lines
        if line := raised_in_constructor(cause, UserError.__module__) or (None if within else device_line(cause)):
            return line
        if line := storage_line(cause):
            return line
        if not within and isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS:
            return f"{cause.filename or 'storage'}: {cause.strerror}"
        context = None if cause.__suppress_context__ else cause.__context__
        waiting += [*within, cause.__cause__, context]
    return None


def quiet() -> None:
    """Let libraries log only problems; the stages print the rest. Workers inherit these environment variables."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal can show every name
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("seva_ray").setLevel(logging.INFO)
    for variable, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # this turns off Tune's tables
        "RAY_ENABLE_AUTO_CONNECT": "0",  # what asks Ray for something after its end starts no new cluster
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(variable, value)
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"  # the first Ray Train has other settings, which older scripts ask for
