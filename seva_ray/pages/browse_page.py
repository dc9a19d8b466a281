"""The page on which all pairs can be looked through. Its script shows texts as texts: none of them is trusted."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from seva_ray.pages.templates import page


def render(name: str, notes: Sequence[str] = ()) -> str:
    """The page about the pairs `name`. It may run its own script and the data files beside it, and nothing else.
    `notes`: sentences about the margins, such as how many pairs were measured."""
    script = Path(__file__).with_name("browse_page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page("browse_page.html.j2", name=name, notes=notes, script=script, digest=digest)
