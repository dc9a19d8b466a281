"""The environment of a job on a machine whose home or TMPDIR cannot be written: what libraries keep there goes to other
places. Otherwise no job starts, because Ray writes a token at its start.
"""

import os
import secrets
import tempfile
from pathlib import Path

from seva_ray.core.errors import InputError
from seva_ray.core.home import can_be_written, own_directory
from seva_ray.runtime.progress import say

PLACES = {
    "XDG_CACHE_HOME": "cache",  # vLLM, torch extensions, fontconfig
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
}
"""Directories that libraries would make in the home, by the environment variable that names another place."""

IN_HOME = (".cache", ".config", ".triton")
"""Where they would make them. One of these may belong to root, after a job was once run with sudo."""


def use_other_places() -> None:
    """Set the environment for this process and its workers, if the home or TMPDIR cannot be written. What the user set
    and can be used stays. Raises: InputError if temporary files can be written nowhere."""
    use_temporary_directory()
    if not os.path.isabs(os.path.expanduser("~")):  # there is no home, or each process would look for it elsewhere
        os.environ["HOME"] = str(own_directory())
    home = Path(os.path.expanduser("~"))
    there = [str(home / name) for name in IN_HOME if os.path.isdir(home / name)]
    if not all(can_be_written(place) for place in (str(home), *there)):
        os.environ.setdefault("HF_HOME", str(home / ".cache" / "huggingface"))  # it is read, and follows XDG_CACHE_HOME
        other = own_directory()
        for variable, name in PLACES.items():
            os.environ.setdefault(variable, str(other / name))
    if not os.environ.get("RAY_ADDRESS") and not can_have_token(home):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of the cluster that this job starts


def use_temporary_directory() -> None:
    """Let Ray, which trusts TMPDIR, use the directory for temporary files that Python has found."""
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise InputError(f"{error.strerror}: TMPDIR must name a directory that can be written") from None
    named = os.environ.get("TMPDIR")
    if named and os.path.abspath(named) != found:
        say(f"TMPDIR {named}: cannot be written; temporary files are in {found}")
        os.environ["TMPDIR"] = found


def can_have_token(home: Path) -> bool:
    """Whether Ray's token can be read in this home, or written there."""
    token = home / ".ray" / "auth_token"
    if os.path.exists(token):
        return os.access(token, os.R_OK)
    return can_be_written(str(token.parent if os.path.isdir(token.parent) else home))
