"""The errors that a user can fix. Jobs print them as one line, without a traceback.

UserError
├── ConfigError          a field has a value that cannot work; the message says which
├── InputError           a file or row cannot be read; the message says which
├── NothingLeft          the run finished but produced nothing usable
└── FingerprintMismatch  another recipe made the artifact of that name; the message says how they differ
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or configuration. The message is one line that says what is wrong and where."""


class ConfigError(UserError):
    """A field has a value that cannot work."""


class InputError(UserError):
    """A file, row or model directory cannot be used."""


class NothingLeft(UserError):
    """The run finished but produced nothing usable. Running it again would give the same result."""


class FingerprintMismatch(UserError):
    """An artifact with this name exists, but it was made by another recipe."""


def suggestion(name: object, known: Iterable[object]) -> str:
    """The end of a message about an unknown name: the known name that is nearly the same; empty if none is."""
    near = difflib.get_close_matches(str(name), [str(item) for item in known], 1)
    return f"; perhaps you meant {near[0]}" if near else ""


def line_of(error: BaseException) -> str:
    """The first line with words of an error's message, or the name of its class if it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def names_of(error: BaseException) -> set[str]:
    """The names of an error's class and of the classes that it inherits from. Errors of libraries that take seconds to
    import are known by them."""
    return {kind.__name__ for kind in type(error).__mro__}


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory or a device failed, which says nothing about what was being computed. torch's errors are known by
    their names, so that this file needs no torch."""
    if names_of(error) & {"MemoryError", "OutOfMemoryError", "AcceleratorError"}:
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's message on a CPU
