"""Figures of a run's page as SVG images: the curves of one DPO run, and the lengths of answers.

In: the per-step rows that TRL logs; lengths of answers. Out: titled figures.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = "#1c2431", "#5b6675", "#0072B2", "#D55E00"  # blue and orange differ for every eye
SMOOTH_FROM = 30
"""Number of points from which on a running mean is drawn over the single steps."""
NUM_BINS = 30
"""Largest number of bins in a histogram of lengths."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One logged value over the steps."""

    key: str
    label: str
    color: str
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one figure shows, and how to read it."""

    title: str
    caption: str
    unit: str
    lines: Sequence[Line]
    level: float | None = None
    """The value before the first step, drawn as a thin line; None for no line."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One drawn figure."""

    title: str
    caption: str
    svg: bytes
    smoothed: bool
    """Whether single steps are thin and a running mean is thick."""


PANELS = (
    Panel(
        title="Margin",
        caption="Chosen minus rejected reward. It starts at 0 and should grow.",
        unit="nats × beta",
        lines=[Line(key="rewards/margins", label="margin", color=BLUE)],
        level=0.0,
    ),
    Panel(
        title="Accuracy",
        caption="Pairs whose chosen answer has the higher reward; 50% is a coin flip.",
        unit="% of pairs",
        lines=[Line(key="rewards/accuracies", label="accuracy", color=BLUE, scale=100)],
        level=50.0,
    ),
    Panel(
        title="Chosen and rejected reward",
        caption="If both fall, the policy moves away from both answers (displacement).",
        unit="nats × beta",
        lines=[
            Line(key="rewards/chosen", label="chosen", color=BLUE),
            Line(key="rewards/rejected", label="rejected", color=ORANGE),
        ],
        level=0.0,
    ),
    Panel(
        title="Loss",
        caption="The preference loss of each logged step.",
        unit="nats",
        lines=[Line(key="loss", label="loss", color=BLUE)],
    ),
)


def training_curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The panels that the rows have values for; a row or key that is missing is left out."""
    curves = []
    for panel in PANELS:
        drawn = [(line, points) for line in panel.lines if len(points := _points(rows, line))]
        if drawn:
            smoothed = max(len(points) for _, points in drawn) >= SMOOTH_FROM
            svg = _draw(panel, drawn, smoothed)
            curves.append(Curve(title=panel.title, caption=panel.caption, svg=svg, smoothed=smoothed))
    return curves


def length_figure(start: Sequence[int], policy: Sequence[int]) -> bytes:
    """Histograms of lengths in words, in shares of the answers; the last bin holds all longer ones."""
    from matplotlib.figure import Figure  # takes a second: not for jobs that draw nothing

    edges = length_edges([*start, *policy])
    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for lengths, label, color, filled in ((start, "base model", MUTED, True), (policy, "policy", BLUE, False)):
        clipped = np.minimum(np.asarray(lengths, np.float64), edges[-1] - 0.5)
        shares = 100 * np.histogram(clipped, edges)[0] / max(1, len(lengths))
        axes.stairs(shares, edges, label=label, color=color, fill=filled, alpha=0.3 if filled else 1, linewidth=1.8)
    style(axes, "words", "% of answers")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    return svg_of(figure)


def length_edges(lengths: Sequence[int]) -> np.ndarray:
    """The edges of at most about NUM_BINS bins, each a whole number of words wide, up to the 99% quantile."""
    longest = math.ceil(np.quantile(lengths, 0.99)) if lengths else 0
    width = math.ceil((longest + 1) / NUM_BINS)
    return np.arange(0, longest + 1 + width, width) - 0.5


def _points(rows: Sequence[Mapping[str, Any]], line: Line) -> np.ndarray:
    """The logged (step, value) rows. Shapes: (points, 2)."""
    logged = [(row.get("step"), row.get(line.key)) for row in rows]
    points = [(step, line.scale * value) for step, value in logged if _is_number(step) and _is_number(value)]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _draw(panel: Panel, drawn: Sequence[tuple[Line, np.ndarray]], smoothed: bool) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 2.9), layout="constrained")  # without pyplot, which has global state
    axes = figure.add_subplot()
    if panel.level is not None:
        axes.axhline(panel.level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for line, points in drawn:
        steps, values = points.T
        if smoothed:
            axes.plot(steps, values, color=line.color, linewidth=1.0, alpha=0.35)
            axes.plot(steps, _running_mean(values), color=line.color, linewidth=2.0, label=line.label)
        else:
            axes.plot(steps, values, color=line.color, linewidth=1.8, marker="o", markersize=3.5, label=line.label)
    style(axes, "step", panel.unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    return svg_of(figure)


def svg_of(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a tenth of the run around each point, and at the ends over the part that exists."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def style(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b7bfca")
    axes.grid(axis="y", color="#e6e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=10)
    axes.set_xlabel(x_label, fontsize=10, color=MUTED)
    axes.set_ylabel(y_label, fontsize=10, color=MUTED)
