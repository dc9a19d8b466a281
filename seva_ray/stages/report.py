"""report: the results of a run -> the artifact `reports/<name>`, one self-contained HTML file.

The page is drawn again only if something that it shows has changed, because drawing takes several seconds.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seva_ray.core.artifacts import Store
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.provenance import versions
from seva_ray.core.storage import read_bytes, write_bytes
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.stages.report_inputs import Report, inputs_of

PACKAGE = Path(__file__).parent.parent


def report(config: Report, store: Store, name: str, command: str, began: float) -> str:
    """Write the page about policy `name` from its artifact and those that it was made from. Returns the page's URI.

    A page that was drawn from the same artifacts, by the same code, stays as it is. `began` is when this run started,
    Unix time in s; older artifacts count as reused.
    """
    uri, shown = store.uri(f"reports/{name}/index.html"), inputs_of(store, name)

    def draw(drawn_from: str) -> str:
        from seva_ray.pages.run_page import render  # this and the next import take seconds
        from seva_ray.stages.report_content import content_of

        return render(content_of(config, store, name, shown, drawn_from, command, began))

    return drawn_once(uri, "report", page_recipe(asdict(config), shown.records()), draw)


def drawn_once(
    uri: str, label: str, recipe: Mapping[str, Any], draw: Callable[[str], str], doing: str = "drawing the page"
) -> str:
    """Write the page that `draw` makes, unless the one that is there was drawn by the same recipe. Returns its URI.
    `draw` gets the recipe's fingerprint, which the page must hold. `label`: what the lines about it begin with."""
    drawn_from = fingerprint_of(recipe)
    if is_drawn(uri, drawn_from):
        say(f"{label}: {uri} (unchanged)")
        return uri
    with waiting(f"{label}: {doing}"):
        write_bytes(uri, draw(drawn_from).encode())
    say(f"{label}: {uri}")
    return uri


def page_recipe(config: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a page depends on, except the command and the time of the run that draws it. `records` has the
    record of each artifact that the page shows."""
    code = {
        str(path.relative_to(PACKAGE)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".j2")
    }
    return {"config": config, "artifacts": records, "code": code, "versions": versions()}


def is_drawn(uri: str, drawn_from: str) -> bool:
    """Whether the page exists and was drawn from this. Texts on a page cannot look like its tags."""
    try:
        return f'<meta name="drawn-from" content="{drawn_from}">'.encode() in read_bytes(uri)
    except FileNotFoundError:
        return False
