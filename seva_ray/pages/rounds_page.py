"""The page about the rounds of one run: the curve of each benchmark over the rounds, and what each round did."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from seva_ray.pages.pair_cards import data_uri
from seva_ray.pages.rounds_content import RoundsContent, RoundScores
from seva_ray.pages.templates import num_shown, page


def render(content: RoundsContent) -> str:
    """The page as one self-contained HTML file. Its links are relative to `rounds/<name>/`."""
    return page(
        "rounds_page.html.j2",
        content=content,
        curve=data_uri(curve(content.scores), "image/svg+xml") if content.scores else "",
        tables=[table(item) for item in content.scores],
        reports={row.name: quote(f"../../reports/{row.name}/index.html") for row in content.rounds if row.has_report},
    )


def table(scores: RoundScores) -> dict[str, Any]:
    """The metrics of one benchmark. If there are many, the page folds all but the first ones."""
    metrics = [row.metric for row in scores.rounds[0]]
    return {
        "title": scores.title,
        "rows": [(metric, scores.of(metric)) for metric in metrics],
        "num_shown": num_shown(len(metrics)),
    }


def curve(scores: Sequence[RoundScores]) -> bytes:
    """The main metric of each benchmark over the rounds, as SVG. Round 0 is the first model."""
    from seva_ray.pages.figures import BLUE, INK, MUTED, style, svg_of
    from seva_ray.pages.study_figures import grid, limits, plain

    figure, every = grid(len(scores), row_height=2.6)
    for axes, item in zip(every, scores, strict=False):
        rows = item.of(item.main)
        start = rows[0].start
        axes.axhline(start, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ends = [(start + row.difference_low, start + row.difference_high) for row in rows]
        for number, (low, high) in enumerate(ends, 1):
            axes.plot([number, number], [low, high], color=INK, linewidth=1.3, alpha=0.75)
        points = [start, *(row.policy for row in rows)]
        axes.plot(range(len(points)), points, color=BLUE, marker="o", markersize=6, linewidth=1.8)
        axes.set_ylim(*limits([*points, *(end for pair in ends for end in pair)]))
        axes.set_xticks(range(len(points)))
        style(axes, "round", plain(item.main))
        axes.set_title(plain(item.title), fontsize=10, color=INK, loc="left")
    return svg_of(figure)
