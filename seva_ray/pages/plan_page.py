"""A plan for a person: tables as text, and a picture of wall time against the number of nodes.

In: the work, its forecasts, its footprint and what it costs. A number that lacks some unknown rate is shown with
`>=`, and as `unknown` if nothing of it is known.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.core.durations import duration
from seva_ray.pages.figures import BLUE, INK, MUTED, style
from seva_ray.planning.footprint import Demand, Footprint
from seva_ray.planning.forecast import Forecast, Stage
from seva_ray.planning.work import RemainingWork

Costs = Mapping[str, float]
"""Price of the node hours by pool."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the plan shows."""

    name: str
    work: RemainingWork
    origins: Mapping[str, str]
    """The origin of each known rate and size."""
    forecasts: Sequence[Forecast]
    """A forecast for each number of nodes. The stages of the last one are shown."""
    parts: Sequence[Footprint]
    demands: Sequence[Demand]
    memory: Sequence[str]
    """Lines about the memory of GPUs."""
    currency: str
    costs: Sequence[Costs]
    """The costs of each forecast; empty if no prices are given."""


def text_of(plan: Plan) -> str:
    parts = [heading(plan), stages(plan.forecasts[-1]), nodes(plan)]
    if plan.costs:
        parts.append(costs(plan))
    if plan.memory:
        parts.append("\n".join(plan.memory))
    parts += [footprint(plan), limits(plan), sources(plan)]
    return "\n\n".join(parts)


def heading(plan: Plan) -> str:
    work, saved = plan.work, [item.name for item in plan.work.passes if not item.num_left]
    lines = [
        f"{plan.name}: {work.num_prompts:,} prompts in {work.num_shards:,} shards of {work.shard_size:,}; "
        f"passes of the base model: {', '.join(item.name for item in work.passes)}"
    ]
    if saved:
        lines.append(f"exist already: {', '.join(saved)}")
    lines += [
        f"exists in part: {item.name}, {item.num_units - item.num_left:,} of {item.num_units:,} units"
        for item in work.passes
        if 0 < item.num_left < item.num_units
    ]
    return "\n".join(lines)


def stages(forecast: Forecast) -> str:
    rows: list[Sequence[str]] = [
        (f"nodes: {forecast.num_nodes:,}", "work", "wall time", "driver alone", "GPU-h", "CPU-h")
    ]
    for stage in [*forecast.stages, forecast.total]:
        figures = (duration(stage.wall_s), duration(stage.driver_s), amount(stage.gpu_hours), amount(stage.cpu_hours))
        rows.append((stage.name, stage.work, *(bound(figure, stage) for figure in figures)))
    return table(rows)


def nodes(plan: Plan) -> str:
    rows = [("nodes", "engines", "rows/s", "ideal", "simulated", "at work", "preempted", "redone", "lost", "whole run")]
    for forecast in plan.forecasts:
        found = forecast.generation
        if not found or not forecast.rows_per_s or forecast.ideal_s is None:
            return "wall time of generation: unknown without rows_per_s"
        slow = "*" if forecast.slowed_by_encoding else ""
        rows.append(
            (
                f"{forecast.num_nodes:,}",
                f"{forecast.num_engines:,}",
                f"{amount(forecast.num_engines * forecast.rows_per_s)}{slow}",
                duration(forecast.ideal_s),
                duration(found.wall_s),
                f"{found.utilisation:.1%}",
                f"{found.num_preemptions:,}",
                f"{found.num_redone:,}",
                f"{found.lost_s / max(found.engine_s, 1e-9):.1%}",
                bound(duration(forecast.total.wall_s), forecast.total),
            )
        )
    title = "generation by the number of nodes; redone: units, lost: share of the engines' time spent on them\n"
    note = (
        "\n* slowed by encoding: more CPUs would help"
        if any(item.slowed_by_encoding for item in plan.forecasts)
        else ""
    )
    return title + table(rows) + note


def costs(plan: Plan) -> str:
    pools = list(plan.costs[0])
    rows: list[Sequence[str]] = [("nodes", *(f"{pool} node-h" for pool in pools), *pools, plan.currency)]
    for forecast, of_pool in zip(plan.forecasts, plan.costs, strict=True):
        node_hours = (amount(forecast.node_hours[pool]) for pool in pools)
        prices = (f"{of_pool[pool]:,.0f}" for pool in pools)
        whole = bound(f"{sum(of_pool.values()):,.0f}", forecast.total)
        rows.append((f"{forecast.num_nodes:,}", *node_hours, *prices, whole))
    return table(rows)


def footprint(plan: Plan) -> str:
    rows = [("bytes", "stored", "moved")]
    rows += [(part.name, size(part.stored), size(part.moved)) for part in plan.parts]
    return table(rows)


def limits(plan: Plan) -> str:
    rows = [("first limits (docs/SCALE.md)", "here", "limit")]
    for demand in plan.demands:
        here = size(demand.value) if demand.unit == "B" else number(demand.value, demand.unit)
        over = demand.limit is not None and demand.value is not None and demand.value > demand.limit
        limit = number(demand.limit, demand.unit) if demand.limit is not None else ""
        rows.append((demand.name, here, limit + (" EXCEEDED" if over else "")))
    return table(rows)


def sources(plan: Plan) -> str:
    lines = [f"from {place}: {', '.join(names)}" for place, names in grouped(plan.origins).items()]
    if unknown := plan.forecasts[-1].total.unknown:
        lines.append(f"unknown: {', '.join(unknown)}")
        lines.append("to know them: measure with --probe.name NAME, or give them, as in --rates.rows-per-s 30")
    return "\n".join(lines)


def grouped(origins: Mapping[str, str]) -> dict[str, list[str]]:
    places = dict.fromkeys(origins.values())
    return {place: [name for name, origin in origins.items() if origin == place] for place in places}


def bound(figure: str, stage: Stage) -> str:
    """A figure of a stage, with `>=` if some of its rates are unknown."""
    if not stage.unknown or figure == "":
        return figure
    return "unknown" if figure in ("0", "0 s") else f">= {figure}"


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def number(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{amount(value)}{unit}"


def size(value: float | None) -> str:
    if value is None:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if value else ""
        value /= 1000
    return f"{value:,.3g} PB"


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def picture_of(plan: Plan) -> bytes:
    """A PNG of hours of generation against nodes, ideal and simulated. Empty if the hours are unknown."""
    found = [item for item in plan.forecasts if item.generation and item.ideal_s]
    if not found:
        return b""
    from matplotlib.figure import Figure  # its import takes a second, which `--help` does not need

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    counts = [item.num_nodes for item in found]
    axes.plot(counts, [(item.ideal_s or 0) / 3600 for item in found], color=MUTED, linestyle="--", label="ideal")
    simulated = [item.generation.wall_s / 3600 for item in found if item.generation]
    axes.plot(counts, simulated, color=BLUE, marker="o", label="simulated")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    style(axes, "nodes", "hours of generation")
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
