"""Figures of the views of a study: what their pairs are like. In: counts. Out: figures as in study_figures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from seva_ray.pages.figures import INK, MUTED, style
from seva_ray.pages.study_figures import LOOKS, Mark, Series, against_strength, grid, plain
from seva_ray.studies.study_rows import ViewFacts

OUTCOMES = {
    "chosen right": "chosen right, rejected wrong",
    "rejected right": "rejected right, chosen wrong",
    "neither": "neither",
}
NUM_BINS = 28


def unequal(views: Sequence[ViewFacts]) -> Figure:
    """The share of prompts with a pair to learn from, by strength."""
    marks = {facts.view: Mark(value=100 * facts.num_kept / facts.num_prompts) for facts in views if facts.num_prompts}
    return against_strength([Series(label="kept", marks=marks)], "% of prompts", height=2.9, bottom=0)


def judged(views: Sequence[ViewFacts]) -> Figure:
    """Whether the chosen or the rejected response is right, by strength."""
    known = [(facts.view, facts.judged, sum(facts.judged.values())) for facts in views if facts.judged]
    series = [
        Series(
            label=label, marks={view: Mark(value=100 * of.get(name, 0) / total) for view, of, total in known if total}
        )
        for name, label in OUTCOMES.items()
    ]
    return against_strength(series, "% of judged pairs", height=3.1, bottom=0)


def lengths(panels: Mapping[str, tuple[Sequence[int], Sequence[int]]], names: tuple[str, str], unit: str) -> Figure:
    """Distributions of response lengths, two in each panel. The last bin also holds what
    is longer than 99.5 % of the responses.

    `panels`: counts by number of tokens, by title.
    """
    longest = max(_quantile(counts, 0.995) for pair in panels.values() for counts in pair)
    width = max(1, math.ceil((longest + 1) / NUM_BINS))
    edges = np.arange(0, (longest // width + 2) * width, width)
    figure, every = grid(len(panels), row_height=2.0, sharex=True, sharey=True)
    for axes, (title, pair) in zip(every, panels.items(), strict=False):
        for counts, name, (color, _, dash), fill in zip(pair, names, LOOKS, (True, False)):
            tokens = np.minimum(np.arange(len(counts)), longest)
            shares = np.histogram(tokens, bins=edges, weights=counts)[0] * 100 / max(1, sum(counts))
            if fill:
                axes.stairs(shares, edges, fill=True, color=color, alpha=0.22)
            mean = np.average(np.arange(len(counts)), weights=counts) if sum(counts) else math.nan
            text = f"{name}, mean {mean:.1f}" if math.isfinite(mean) else f"{name}: none"
            axes.stairs(shares, edges, color=color, linewidth=1.6, linestyle=dash, label=plain(text))
        style(axes, "", "")
        axes.set_title(plain(title), fontsize=10, color=INK, loc="left")
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.6, borderpad=0.1)
    every[0].set_ylim(top=1.35 * every[0].get_ylim()[1])  # room for the legends
    figure.supxlabel("tokens", fontsize=10, color=MUTED)
    figure.supylabel(plain(unit), fontsize=10, color=MUTED)
    return figure


def _quantile(counts: Sequence[int], share: float) -> int:
    """The smallest length that at least this share of the responses does not exceed."""
    return int(np.searchsorted(np.cumsum(counts), share * sum(counts))) if sum(counts) else 0
