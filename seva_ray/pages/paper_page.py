"""The page of an experiment of the paper: the authors' numbers beside ours, with our intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.pages.templates import page
from seva_ray.scoring.paper_numbers import Beside


@dataclass(frozen=True, kw_only=True)
class PaperContent:
    """What the page shows."""

    title: str
    summary: Sequence[str]
    """Sentences at the top: the claim, and what was run."""
    rows: Sequence[Beside]
    others: Mapping[str, Sequence[str]]
    """A sentence on each benchmark, by the name of the policy."""
    command: str
    links: Sequence[str]
    """URIs of the pages with all details."""


def render(content: PaperContent) -> str:
    """One self-contained HTML page."""
    return page("paper_page.html.j2", content=content)
