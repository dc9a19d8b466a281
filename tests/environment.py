"""What a process that a test starts can import: this checkout, and what a user has installed.

The packages that only the tests need are hidden from it, see as_installed/sitecustomize.py.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
AS_INSTALLED = str(ROOT / "tests" / "as_installed")


def pythonpath(*more: Path) -> str:
    """The value of PYTHONPATH, with these folders too."""
    return os.pathsep.join([AS_INSTALLED, str(ROOT), *map(str, more)])
