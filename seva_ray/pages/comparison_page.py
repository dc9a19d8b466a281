"""The page of a comparison of methods: each method against the base models and against the first one, with its cost.

In: plain data. Out: one self-contained HTML file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seva_ray.pages.pair_cards import data_uri
from seva_ray.pages.settings import setting_rows
from seva_ray.pages.templates import page
from seva_ray.scoring.intervals import Repeated


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method over all base models and seeds, as plain data."""

    name: str
    about: str
    is_control: bool
    num_policies: int
    num_pairs: float
    """Pairs that a policy was trained on, mean over the policies."""
    num_steps: float
    step_s: float
    """Time of a training step in s, mean over the policies."""
    log: Sequence[Mapping[str, float]]
    """The training log, mean over the policies step by step."""


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """The chosen metrics of all methods on one benchmark."""

    title: str
    metrics: Sequence[str]
    against_base: Mapping[str, Sequence[Repeated]]
    """The comparison of policies with their base models, for each method and metric."""
    against: Mapping[str, Mapping[str, Sequence[Repeated]]]
    """The comparison with the policies of these methods, for each other method and metric."""


@dataclass(frozen=True, kw_only=True)
class ComparisonContent:
    """All that the page shows."""

    title: str
    summary: Sequence[str]
    methods: Sequence[MethodRow]
    """The cost of the others is compared with that of the first one."""
    tables: Sequence[MetricTable]
    command: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    drawn_from: str


@dataclass(frozen=True, kw_only=True)
class MethodFigure:
    """A figure: one logged value over the steps, with a line for each method."""

    key: str
    title: str
    caption: str
    unit: str


METHOD_FIGURES = (
    MethodFigure(
        key="rewards/margins",
        title="Margin",
        caption="Chosen minus rejected reward on the clean image. It starts at 0 and should grow.",
        unit="nats × beta",
    ),
    MethodFigure(
        key="drift/chosen",
        title="Chosen answer",
        caption="Log-probability of the chosen answer, minus the reference's. Below 0 it has become less likely.",
        unit="nats",
    ),
    MethodFigure(
        key="rewards/image_margins",
        title="Image margin",
        caption="Reward of the chosen answer on the clean image minus the one on the view; only methods that read it.",
        unit="nats × beta",
    ),
)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#8f8500", "#56b4e9", "#332288", "#882255", "#5b6675")
"""One line style for each method. Lines of controls are dashed."""


def render(content: ComparisonContent) -> str:
    first = content.methods[0]
    return page(
        "comparison_page.html.j2",
        content=content,
        first=first.name,
        against=list(content.tables[0].against) if content.tables else [],
        costs=[(method, method.step_s / first.step_s if first.step_s else float("nan")) for method in content.methods],
        curves=[
            (panel, data_uri(svg, "image/svg+xml"))
            for panel in METHOD_FIGURES
            if (svg := curve(panel, content.methods))
        ],
        settings=setting_rows(content.config),
    )


def curve(panel: MethodFigure, methods: Sequence[MethodRow]) -> bytes | None:
    """The panel as SVG; None if no method has logged its value."""
    from matplotlib.figure import Figure  # takes a second

    from seva_ray.pages.figures import INK, MUTED, style, svg_of

    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    axes, drawn = figure.add_subplot(), False
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for method, color in zip(methods, COLORS * len(methods), strict=False):
        points = [(row["step"], row[panel.key]) for row in method.log if panel.key in row]
        if points:
            steps, values = zip(*points, strict=True)
            dashes = "--" if method.is_control else "-"
            axes.plot(steps, values, color=color, linewidth=1.7, linestyle=dashes, label=method.name)
            drawn = True
    if not drawn:
        return None
    style(axes, "step", panel.unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    return svg_of(figure)
