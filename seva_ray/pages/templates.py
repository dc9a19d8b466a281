"""How a page is filled in: jinja2 templates of this folder, and the filters with which they write numbers.

Every text and image on a page comes from models and data sets, so none of it is trusted: all of it is escaped.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seva_ray.core.durations import duration

NUM_SHOWN = 6
"""Number of rows of a table of scores that are shown unfolded. Two more are not worth a fold."""


def page(template: str, **values: Any) -> str:
    """A template of this folder, filled in. The result can be encoded as UTF-8 whatever the texts hold."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "tick": _tick,
        "count": _count,
        "share": _share,
        "duration": duration,
        "spoken": _spoken,
        "middle": _middle,
    }
    html = environment.get_template(template).render(**values)
    return html.encode("utf-8", errors="replace").decode("utf-8")


class Interval(Protocol):
    """A difference with the ends of its interval."""

    @property
    def difference(self) -> float: ...
    @property
    def difference_low(self) -> float: ...
    @property
    def difference_high(self) -> float: ...


def forest(rows: Sequence[Interval]) -> dict[str, Any]:
    """The rows with the place of each interval on a common axis, and the ticks of the axis. Places are per cent of the
    width of the axis."""
    ends = [
        end for row in rows for end in (row.difference, row.difference_low, row.difference_high) if math.isfinite(end)
    ]
    from matplotlib.ticker import MaxNLocator

    ticks = [float(tick) for tick in MaxNLocator(nbins=4).tick_values(min([0.0, *ends]), max([0.0, *ends]))]
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float | None:
        return round(100 * (value - low) / (high - low), 2) if math.isfinite(value) else None

    return {
        "ticks": [(tick, place(tick)) for tick in ticks],
        "rows": [(row, place(row.difference), place(row.difference_low), place(row.difference_high)) for row in rows],
    }


def num_shown(num_rows: int) -> int:
    """How many rows of a table of scores are shown, and the others are folded."""
    return num_rows if num_rows <= NUM_SHOWN + 2 else NUM_SHOWN


def number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−") if math.isfinite(value) else "–"


def signed(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    rounded = f"{value:+.1f}"
    return "0.0" if float(rounded) == 0 else rounded.replace("-", "−")


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _middle(values: Sequence[int]) -> str:
    return f"{median(values):g}" if values else "–"


def _count(value: int) -> str:
    return f"{value:,}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "–"


def _spoken(verdict: str) -> str:
    return verdict.replace("_", " ")
