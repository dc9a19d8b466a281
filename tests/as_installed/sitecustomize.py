"""Python runs this at the start of every process that the tests start: it hides what only the tests need.

A user's environment has none of these packages. If they are there, transformers imports them, which takes about as long
as all the rest of its import.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

ONLY_FOR_TESTS = ("scipy", "skimage", "sklearn")


class Installed(PathFinder):
    """Finds what Python would find, but for the packages that only the tests need."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in ONLY_FOR_TESTS else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
