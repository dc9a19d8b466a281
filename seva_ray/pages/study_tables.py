"""The tables and sentences of a study's page, as plain values for its template."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import to_rgb

from seva_ray.pages.figures import BLUE, ORANGE
from seva_ray.pages.templates import forest
from seva_ray.studies.space import SWAPPED
from seva_ray.studies.study_rows import (
    POINT_FIELDS,
    StudyContent,
    StudyRow,
    at_reference,
    failed_rows,
    is_stopped,
    named,
    objective_rows,
    order_of_arm,
    reference_of,
    shown,
)

TINT = 0.6
"""How much colour the strongest cell of the heat map has, from 0 to 1: dark text must be readable on it."""


def varying_axes(content: StudyContent) -> list[str]:
    """The axes with several values, without the number of pairs, which has a column of its own."""
    return [name for name in POINT_FIELDS if len(content.axes.get(name, ())) > 1 and name != "num_pairs"] or ["arm"]


def axis_values(content: StudyContent, row: StudyRow) -> list[str]:
    return [shown(row.point[name]) for name in varying_axes(content)]


def description(content: StudyContent, point: Any) -> str:
    """The values in which a point differs from others, as text."""
    values = [(name, shown(point[name])) for name in (*varying_axes(content), "num_pairs") if name in point]
    return ", ".join(value if name == "arm" else f"{named(name)} {value}" for name, value in values)


def held_axes(content: StudyContent, reference: Mapping[str, Any], *free: str) -> str:
    """The values of the axes that a figure does not show, as text."""
    names = [name for name in varying_axes(content) if name not in free and name in reference]
    return ", ".join(f"{named(name)} {shown(reference[name])}" for name in names)


def heat_map(content: StudyContent, finals: Sequence[StudyRow]) -> dict[str, Any] | None:
    """A row for each condition and a column for each beta. A cell is its row, its colour, and if it was stopped."""
    kept = at_reference(reference_of(content), finals, "arm", "beta")
    rows = {(row.point["arm"], row.point["beta"]): row for row in kept}
    arms, betas = sorted({arm for arm, _ in rows}, key=order_of_arm), sorted({beta for _, beta in rows})
    if len(betas) < 2:
        return None
    largest = max(abs(row.gain) for row in rows.values()) or 1.0
    cells = {place: (row, _tint(row.gain / largest), is_stopped(content, row)) for place, row in rows.items()}
    return {
        "betas": [shown(beta) for beta in betas],
        "rows": [(arm, [cells.get((arm, beta)) for beta in betas]) for arm in arms],
    }


def _tint(value: float) -> str:
    """Blue above 0, orange below, white at 0; `value` is from -1 to 1."""
    color = to_rgb(BLUE if value > 0 else ORANGE)
    return "rgb({:.0f},{:.0f},{:.0f})".format(*(255 * (1 - TINT * abs(value) * (1 - part)) for part in color))


def rung_rows(content: StudyContent, finals: Sequence[StudyRow]) -> list[StudyRow]:
    """The rows on fewer pairs than a setting's final row, sorted by view."""
    passed = [row for row in objective_rows(content) if row not in finals]
    return sorted(passed, key=lambda row: (order_of_arm(row.point["arm"]), str(row.setting), row.asked))


def point_table(content: StudyContent, rows: Sequence[StudyRow], final: bool) -> dict[str, Any]:
    """The rows of the table of points, each with its notes."""
    best = StudyRow(point=content.best).setting if content.best else None
    failed = {row.setting for row in failed_rows(content)}
    placed = forest(rows)
    return {
        "ticks": placed["ticks"],
        "rows": [
            {
                "row": row,
                "places": (place, low, high),
                "values": axis_values(content, row),
                "is_best": final and row.setting == best,
                "notes": [
                    note
                    for note, is_so in (
                        ("best", final and row.setting == best),
                        ("control", row.point["arm"].startswith(SWAPPED)),
                        ("stopped early", final and is_stopped(content, row) and row.setting not in failed),
                        ("failed on more pairs", final and row.setting in failed),
                    )
                    if is_so
                ],
                "pairs": f"{row.num_trained:,.0f}" if math.isfinite(row.num_trained) else shown(row.point["num_pairs"]),
            }
            for row, place, low, high in placed["rows"]
        ],
    }


def other_metrics(content: StudyContent, best: Sequence[StudyRow]) -> dict[str, Any] | None:
    rows = [row for row in best if (row.benchmark, row.metric) != content.objective]
    return forest(rows) if rows else None


def interval_note(finals: Sequence[StudyRow]) -> str:
    """A sentence on which chance the intervals include."""
    repeats = {len(row.differences) for row in finals}
    if repeats == {1}:
        return "With one training seed, intervals hold only the choice of test images, not that of a training seed."
    alone = "; those of points with one seed hold only that of images" if 1 in repeats else ""
    return f"Intervals hold the choice of test images and that of training seeds{alone}."


def hours_note(content: StudyContent) -> str:
    total = sum(content.hours.values())
    if not total:
        return ""
    each = ", ".join(f"{stage} {hours:.3g}" for stage, hours in content.hours.items() if hours)
    kind = "GPU" if content.on_gpus else "CPU"
    return f"{kind}-hours held for engines and training workers: {total:.3g} ({each})."


def passes_note(content: StudyContent) -> str:
    if not content.passes_apart:
        return ""
    saved = content.passes_apart - content.passes_done
    return (
        f"Generation passes over training prompts: {content.passes_done:,}. The same trials one by one would have "
        f"needed {content.passes_apart:,}: {saved:,} were saved ({100 * saved / max(1, content.passes_apart):.0f}%)."
    )
