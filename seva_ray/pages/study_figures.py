"""Figures of a study. In: rows that are already chosen. Out: matplotlib figures up to 11.2 inches wide, as the page is.

Every figure is a `Figure` of its own: no pyplot, no global state. Texts may come from anywhere, so a dollar sign is not
mathematics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from seva_ray.pages.figures import BLUE, INK, MUTED, ORANGE, style
from seva_ray.studies.scaling import ScalingLaw
from seva_ray.studies.space import SWAPPED, strength
from seva_ray.studies.study_rows import StudyRow, order_of_arm

WIDTH = 11.2
"""Width of the page in inches: 1,075 pixels of CSS."""
LOOKS = ((BLUE, "o", "-"), (ORANGE, "s", "--"), ("#009E73", "^", "-."), ("#AA4499", "D", ":"))
"""Colour, marker and dash of each line of a figure: lines differ without colours too."""
COLUMNS = 4
"""Largest number of small panels in a row."""
ROOM = 14
"""Largest number of conditions in one row of panels."""
MAX_LETTERS = 48
"""Largest length of a label: without a limit, one label could leave no room for the figure."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The value of one condition, with its interval."""

    value: float
    low: float = math.nan
    high: float = math.nan
    hollow: bool = False
    """Whether the point was stopped early."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of several conditions that belong together, by condition."""

    label: str
    marks: Mapping[str, Mark]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One condition on more and more pairs."""

    arm: str
    rows: Sequence[StudyRow]
    """The rows, sorted by number of pairs."""
    law: ScalingLaw | None


def score_of(row: StudyRow, hollow: bool = False) -> Mark:
    """The policy's score: the base model's score plus the difference, so that the bar is the difference's interval."""
    return Mark(
        value=row.start + row.difference,
        low=row.start + row.difference_low,
        high=row.start + row.difference_high,
        hollow=hollow,
    )


def against_strength(
    series: Sequence[Series], unit: str, level: float | None = None, height: float = 3.6, bottom: float | None = None
) -> Figure:
    """A panel for each augmentation with several strengths, and a last panel with all other conditions side by side.

    `level`: the base model's score.
    """
    rows = _rows(_panels(sorted({arm for item in series for arm in item.marks}, key=order_of_arm)))
    widest = max(sum(map(_width, row)) for row in rows)
    slanted = 0.9 if any(not name and _is_slanted(arms) for row in rows for name, arms in row) else 0.0
    size = (min(WIDTH, 2 + 0.75 * widest), height * len(rows) + slanted)
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(
        len(rows), 1, squeeze=False, height_ratios=[*[height] * (len(rows) - 1), height + slanted]
    )
    every: list[Axes] = []
    for part, row in zip(parts[:, 0], rows, strict=True):
        beside = part.subplots(1, len(row), squeeze=False, width_ratios=[_width(panel) for panel in row])[0]
        for axes, (name, arms) in zip(beside, row, strict=True):
            if level is not None:
                axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="base model")
            _panel(axes, name, arms, series)
            style(axes, _dial(name), plain(unit) if axes is beside[0] else "")
            axes.tick_params(labelleft=axes is beside[0])
            if every:
                axes.sharey(every[0])
            every.append(axes)
    every[0].autoscale_view(scalex=False)
    if bottom is not None:
        every[0].set_ylim(bottom=bottom)
    labelled = [axes.get_legend_handles_labels() for axes in every]
    handles = {label: handle for found in reversed(labelled) for handle, label in zip(*found)}
    if len(handles) > 1:
        entry = 0.75 + 0.08 * max(map(len, handles))  # inches, of a line and its text
        looks = {"ncols": max(1, min(5, int(size[0] / entry))), "frameon": False, "fontsize": 10, "labelcolor": INK}
        parts[0, 0].legend(handles.values(), handles.keys(), loc="outside upper left", **looks)
    return figure


def _panel(axes: Axes, name: str, arms: Sequence[str], series: Sequence[Series]) -> None:
    places = [(strength(arm)[1] or 0.0) if name else float(place) for place, arm in enumerate(arms)]
    gap = (max(places) - min(places)) / max(1, len(places) - 1) if name else 1.0
    bars = any(math.isfinite(mark.low) for item in series for mark in item.marks.values())
    spread = 0.11 * gap if bars else 0.0  # so that bars do not cover each other
    for number, item in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * spread
        drawn = [(place + shift, item.marks[arm]) for place, arm in zip(places, arms) if arm in item.marks]
        _draw(axes, drawn, number, item.label, joined=bool(name))
    axes.margins(x=0.08)
    if name:
        axes.set_xticks(_apart(places, 0.07 * (max(places) - min(places))))
    else:
        turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if _is_slanted(arms) else {}
        axes.set_xticks(places, [plain(arm) for arm in arms], **turn)
        axes.set_xlim(-0.6, len(arms) - 0.4)


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """The places without those that are too near to the place before."""
    kept: list[float] = []
    for place in places:
        if not kept or place - kept[-1] >= distance:
            kept.append(place)
    return kept


def _is_slanted(arms: Sequence[str]) -> bool:
    return len(arms) > 4 or (len(arms) > 1 and max(map(len, arms)) > 10)


def _width(panel: tuple[str, Sequence[str]]) -> int:
    return max(3, len(panel[1]))


def _rows(panels: Sequence[tuple[str, list[str]]]) -> list[list[tuple[str, list[str]]]]:
    """Panels in rows: a row has as many panels as fit."""
    rows: list[list[tuple[str, list[str]]]] = [[]]
    for panel in panels:
        if rows[-1] and sum(map(_width, rows[-1])) + _width(panel) > ROOM:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _panels(arms: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Conditions by augmentation if it has several strengths; all others under the empty name, at the end."""
    dials: dict[str, list[str]] = {}
    for arm in arms:
        name, value = strength(arm)
        dials.setdefault(name if value is not None and not arm.startswith(SWAPPED) else "", []).append(arm)
    lone = [arm for name, group in dials.items() if name and len(group) == 1 for arm in group]
    beside = sorted([*lone, *dials.get("", [])], key=order_of_arm)
    several = [(name, group) for name, group in dials.items() if name and len(group) > 1]
    return [*several, *([("", beside)] if beside else [])]


def _dial(name: str) -> str:
    if not name:
        return ""
    return plain(f"noise step of {name}" if name.endswith("diffusion") else f"strength of {name}")


def _draw(axes: Axes, drawn: Sequence[tuple[float, Mark]], number: int, label: str, joined: bool) -> None:
    if not drawn:
        return
    color, marker, dash = LOOKS[number % len(LOOKS)]
    x, y = [place for place, _ in drawn], [mark.value for _, mark in drawn]
    _bars(axes, drawn, color)
    line = {"linestyle": dash if joined else "none", "linewidth": 1.8}
    axes.plot(x, y, color=color, marker=marker, markersize=6, label=plain(label), **line)
    hollow = [(place, mark.value) for place, mark in drawn if mark.hollow]
    if hollow:
        axes.plot(*zip(*hollow), color=color, marker=marker, linestyle="none", markersize=6, markerfacecolor="white")


def _bars(axes: Axes, drawn: Sequence[tuple[float, Mark]], color: str) -> None:
    for place, mark in drawn:
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            axes.plot([place, place], [mark.low, mark.high], color=color, linewidth=1.3, alpha=0.75)


def against_settings(panels: Mapping[str, Mapping[str, Mark]], unit: str, level: float) -> Figure:
    """A panel for each axis, with its values side by side. `level`: the base model's score."""
    figure, every = grid(len(panels), row_height=2.6, sharey=True)
    for axes, (name, marks) in zip(every, panels.items(), strict=False):
        axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        _panel(axes, "", list(marks), [Series(label=name, marks=marks)])
        style(axes, "", "")
        axes.set_title(plain(name), fontsize=10, color=INK, loc="left")
    figure.supylabel(plain(unit), fontsize=10, color=MUTED)
    return figure


def against_pairs(growths: Sequence[Growth], unit: str, level: float) -> Figure:
    """A panel for each condition: scores on a logarithmic axis of pairs, and the fitted law with its interval."""
    figure, every = grid(len(growths), row_height=2.15, sharey=True, sharex=True)
    marks = [[(row.num_trained, score_of(row)) for row in growth.rows] for growth in growths]
    ends = [end for drawn in marks for _, mark in drawn for end in (mark.value, mark.low, mark.high)]
    low, high = limits([level, *ends])
    for axes, growth, drawn in zip(every, growths, marks, strict=False):
        axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        if growth.law:
            x, largest = np.array(growth.law.num_pairs), max(place for place, _ in drawn)
            axes.fill_between(x, growth.law.low, growth.law.high, color=BLUE, alpha=0.13, linewidth=0)
            for part, dash in ((x <= largest * 1.001, "-"), (x >= largest * 0.97, ":")):
                axes.plot(x[part], np.array(growth.law.curve)[part], color=BLUE, linewidth=1.6, linestyle=dash)
        _bars(axes, drawn, INK)
        axes.plot(*zip(*((place, mark.value) for place, mark in drawn)), "o", color=INK, markersize=5)
        axes.set_xscale("log")
        axes.set_ylim(low, high)
        style(axes, "", "")
        axes.set_title(plain(growth.arm), fontsize=10, color=INK, loc="left")
    _ticks_of_pairs(every[0], sorted({place for drawn in marks for place, _ in drawn}))
    figure.supxlabel("pairs", fontsize=10, color=MUTED)
    figure.supylabel(plain(unit), fontsize=10, color=MUTED)
    return figure


def _ticks_of_pairs(axes: Axes, sizes: Sequence[float]) -> None:
    """A tick at each number that is far enough from the one before it, and at twice the largest."""
    ticks = [float(np.exp(place)) for place in _apart(np.log([*sizes, 2 * sizes[-1]]).tolist(), np.log(1.7))]
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xlim(sizes[0] / 1.15, 2.3 * sizes[-1])
    axes.xaxis.set_minor_locator(NullLocator())


def limits(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    margin = 0.06 * (max(finite) - min(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def grid(number: int, row_height: float, **shared: bool) -> tuple[Figure, list[Axes]]:
    """Small panels in rows; places that are not needed stay empty."""
    columns = number if number <= COLUMNS else min((COLUMNS, COLUMNS - 1), key=lambda count: -number % count)
    num_rows = math.ceil(number / columns)
    size = (max(5.0, min(WIDTH, 3.7 * columns)), row_height * num_rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    every = list(figure.subplots(num_rows, columns, squeeze=False, **shared).flat)
    for place, axes in enumerate(every):
        axes.set_visible(place < number)
        # If no panel is below, this one shows the shared axis.
        axes.xaxis.set_tick_params(labelbottom=place + columns >= number)
    return figure, every


def plain(text: str) -> str:
    """The text, shortened, without matplotlib's mathematics, and encodable as UTF-8."""
    shortened = text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…"
    return shortened.encode("utf-8", errors="replace").decode("utf-8").replace("$", r"\$")
