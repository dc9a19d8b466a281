"""A home directory that cannot be written, as in containers with another user or a read-only root: what libraries keep
there goes to a directory of this user under /tmp. Otherwise no job starts, because Ray writes a token at its start.
"""

import os
import secrets
import tempfile
from pathlib import Path

PLACES = {
    "XDG_CACHE_HOME": "cache",  # vLLM, torch extensions, fontconfig
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
}
"""Directories that libraries would make in the home, by the environment variable that names another place."""


def use_other_places() -> None:
    """Set the environment for this process and its workers, if the home cannot be written. What the user set stays."""
    home = Path(os.path.expanduser("~"))
    if os.access(home, os.W_OK):
        return
    other = Path(tempfile.gettempdir(), f"seva-home-{os.getuid()}")
    other.mkdir(mode=0o700, exist_ok=True)
    if other.stat().st_uid != os.getuid():  # another user has taken the name
        other = Path(tempfile.mkdtemp(prefix="seva-home-"))
    os.environ.setdefault("HF_HOME", str(home / ".cache" / "huggingface"))  # it is read, and follows XDG_CACHE_HOME
    for variable, name in PLACES.items():
        os.environ.setdefault(variable, str(other / name))
    if not (home / ".ray" / "auth_token").exists() and not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of the cluster that this job starts
