"""The figure of all points of a study on parallel axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seva_ray.pages.figures import INK
from seva_ray.pages.study_figures import WIDTH, limits, plain
from seva_ray.studies.study_rows import named, order_of_arm, shown


def parallel(
    columns: Mapping[str, Sequence[Any]], scores: Sequence[float], unit: str, *, low_is_good: bool = False
) -> Figure:
    """A line for each point through its value on every axis to its score. The colour shows the score, and the best line
    is on top.

    `columns`: the values of all points on each axis. `low_is_good`: low scores are good, and the axis of scores is
    upside down.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    low, high = limits(scores)
    if low_is_good:
        low, high = high, low
    goodness = (np.array(scores) - low) / (high - low)
    colors = ScalarMappable(norm=Normalize(0, 1), cmap="viridis_r")
    order = np.argsort(goodness)
    rank = np.empty(len(scores))
    rank[order] = np.linspace(-0.5, 0.5, len(scores))
    heights: list[list[float]] = []
    for place, (name, values) in enumerate(columns.items()):
        ticks = sorted(set(values), key=_order_of_value(name))
        gap = 1 / len(ticks)
        # Lines of one value are spread around its tick by their scores, the best above, so that each can be followed.
        heights.append([(ticks.index(value) + 0.5 + 0.6 * at) * gap for value, at in zip(values, rank)])
        _axis(axes, place, plain(named(name)), [((n + 0.5) * gap, plain(shown(tick))) for n, tick in enumerate(ticks)])
    heights.append(goodness.tolist())
    places = np.arange(len(heights))
    for point in order:
        color = colors.to_rgba(goodness[point])
        best = point == order[-1]
        axes.plot(places, [column[point] for column in heights], color=color, linewidth=3 if best else 1.2, alpha=0.9)
    values = MaxNLocator(nbins=6).tick_values(min(low, high), max(low, high))
    ends = [((value - low) / (high - low), f"{value:g}") for value in values]
    _axis(axes, len(columns), plain(unit), [end for end in ends if 0 <= end[0] <= 1])
    axes.set_xlim(-0.02, len(columns) + 0.02)
    axes.set_ylim(-0.02, 1.02)
    axes.axis("off")
    return figure


def _axis(axes: Axes, place: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color="#7d8896", linewidth=1.2, zorder=3)
    axes.text(place, 1.05, name, ha="center", va="bottom", fontsize=10.5, color=INK, fontweight="bold")
    halo = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
    looks = {"va": "center", "fontsize": 9.5, "color": INK, "zorder": 4, "bbox": halo}
    shift, align = (-6, "right") if place == 0 else (6, "left")
    for height, text in ticks:
        axes.annotate(text, (place, height), xytext=(shift, 0), textcoords="offset points", ha=align, **looks)


def _order_of_value(name: str) -> Any:
    if name == "arm":
        return order_of_arm
    return lambda value: (0, math.inf if value is None else value) if not isinstance(value, str) else (1, value)
