"""The errors that are the user's to mend. Jobs print them as one line, without a traceback.

UserError
├── ConfigError          a field has a value that cannot work; says which
├── InputError           a file or row cannot be read; says which
├── NothingLeft            what was asked for was done, and gave nothing to go on with
└── FingerprintMismatch  an artifact of that name was made by another recipe; says how they differ
"""


class UserError(Exception):
    """Bad input or configuration; the message is one line that names what and where."""


class ConfigError(UserError):
    """A field's value cannot work."""


class InputError(UserError):
    """A file, row or model directory cannot be used."""


class NothingLeft(UserError):
    """Done as it was asked for, to no use: the same again would end the same."""


class FingerprintMismatch(UserError):
    """An artifact exists under this name, made by another recipe."""


def line_of(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
