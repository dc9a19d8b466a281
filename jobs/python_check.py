"""Imported before everything else: one line, instead of a traceback, if this Python cannot run the jobs."""

import sys
from importlib.util import find_spec

ABSENT = [name for name in ("seva_ray", "tyro", "ray") if find_spec(name) is None]
if sys.version_info < (3, 11) or ABSENT:
    fault = f"lacks {' and '.join(ABSENT)}" if ABSENT else "is too old"
    advice = "start the job with .venv/bin/python, which `make install` makes from Python 3.11"
    print(f"error: {sys.executable} (Python {sys.version.split()[0]}) {fault}: {advice}", file=sys.stderr)
    sys.exit(2)
