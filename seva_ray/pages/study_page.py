"""The report of a study: one HTML file with everything in it, under the same rules as a run's (run_page.py).

In: what the study has found, as plain data. Out: the page as text. A part without data is left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from seva_ray.benchmarks.base import LOW_IS_GOOD
from seva_ray.pages import study_figures as study_plots
from seva_ray.pages import view_figures as study_views
from seva_ray.pages.figures import BLUE, ORANGE, svg_of
from seva_ray.pages.run_page import data_uri, flat, forest, page
from seva_ray.pages.study_figures import Growth, Mark, Series, score_of
from seva_ray.scoring.intervals import Comparison
from seva_ray.studies.scaling import MIN_SIZES, Measurement, fit
from seva_ray.studies.space import SWAPPED
from seva_ray.studies.study_rows import (
    POINT_FIELDS,
    StudyContent,
    StudyRow,
    at_reference,
    best_rows,
    failed_rows,
    final_rows,
    is_stopped,
    named,
    objective_rows,
    order_of_arm,
    reference_of,
    reference_of_growth,
    shown,
)

FEW = 4
"""Lines that one figure may have."""
FEW_METRICS = 8
"""That stand above the figures; more are folded away."""
MAX_PANELS = 24
TINT = 0.6
"""How much colour the strongest cell of the heat map has: dark text is still read on it."""


def render(content: StudyContent) -> str:
    """The report as one self-contained HTML page."""
    finals, best = final_rows(content), best_rows(content)
    benchmark, metric = content.objective
    growths = _growths(content)
    return page(
        "study_page.html.j2",
        content=content,
        benchmark=benchmark,
        metric=metric,
        best=next((row for row in best if (row.benchmark, row.metric) == content.objective), None),
        best_point=_described(content, content.best or {}),
        num_candidates=sum(not row.point["arm"].startswith(SWAPPED) for row in finals),
        others=_others(content, best),
        several=len({row.benchmark for row in best}) > 1,
        few=FEW_METRICS,
        strength=_image(_strength(content, finals)),
        held=_held(content, reference_of(content), "arm", "beta"),
        held_on_pairs=_held(content, reference_of_growth(content), "arm"),
        intervals=_intervals(finals),
        heat=_heat(content, finals),
        growth=_image(_growth(content, growths)),
        growths=growths,
        max_growths=MAX_PANELS,
        min_sizes=MIN_SIZES,
        low_is_good=_low_is_good(content),
        parallel=_image(_parallel(content, finals)),
        unequal=_image(_unequal(content)),
        judged=_image(_judged(content)),
        lengths=_image(_lengths(content)),
        answer_lengths=_image(_answer_lengths(content)),
        test_time=_image(_test_time(content)),
        test_time_rows=forest(rows) if (rows := [row for _, row in _test_time_rows(content)]) else None,
        test_time_views=[view for view, _ in _test_time_rows(content)],
        columns=[(name := named(axis))[:1].upper() + name[1:] for axis in _varying(content)],
        finals=_points(content, finals, final=True),
        rungs=_points(content, _rungs(content, finals), final=False),
        failed=[(_values(content, row), row) for row in failed_rows(content)],
        settings=flat(content.config),
        costs=[line for line in (_held_hours(content), _saved(content)) if line],
    )


def _image(figure: Figure | None) -> str:
    return data_uri(svg_of(figure), "image/svg+xml") if figure else ""


def _unit(content: StudyContent) -> str:
    return "{}\n{}, %".format(*content.objective)


def _low_is_good(content: StudyContent) -> bool:
    return content.objective[1].endswith(LOW_IS_GOOD)


def _varying(content: StudyContent) -> list[str]:
    """The axes with several values; the number of pairs has a column of its own."""
    return [name for name in POINT_FIELDS if len(content.axes.get(name, ())) > 1 and name != "num_pairs"] or ["arm"]


def _values(content: StudyContent, row: StudyRow) -> list[str]:
    return [shown(row.point[name]) for name in _varying(content)]


def _described(content: StudyContent, point: Any) -> str:
    """What tells a point from the others."""
    values = [(name, shown(point[name])) for name in (*_varying(content), "num_pairs") if name in point]
    return ", ".join(value if name == "arm" else f"{named(name)} {value}" for name, value in values)


def _held(content: StudyContent, reference: Mapping[str, Any], *free: str) -> str:
    """Where a figure has the axes that it does not show."""
    names = [name for name in _varying(content) if name not in free and name in reference]
    return ", ".join(f"{named(name)} {shown(reference[name])}" for name in names)


def _strength(content: StudyContent, finals: Sequence[StudyRow]) -> Figure | None:
    """A line for each beta if they are few; else the reference's alone."""
    reference = reference_of(content)
    rows = at_reference(reference, finals, "arm", "beta")
    betas = sorted({row.point["beta"] for row in rows}, key=lambda beta: (beta != reference.get("beta"), beta))
    series = [
        Series(
            label=f"beta {shown(beta)}",
            marks={
                row.point["arm"]: score_of(row, is_stopped(content, row)) for row in rows if row.point["beta"] == beta
            },
        )
        for beta in betas[: FEW if len(betas) <= FEW else 1]
    ]
    return study_plots.against_strength(series, _unit(content), level=rows[0].start) if rows else None


def _heat(content: StudyContent, finals: Sequence[StudyRow]) -> dict[str, Any] | None:
    """Rows of arms and columns of betas; each cell has its row, its colour and whether it was stopped early."""
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


def _growths(content: StudyContent) -> list[Growth]:
    """Arms at the reference that were measured on several numbers of pairs, the best of them, by strength."""
    by_arm: dict[str, dict[float, StudyRow]] = {}
    for row in at_reference(reference_of_growth(content), objective_rows(content), "arm"):
        if math.isfinite(row.num_trained):
            # Where there were no more pairs, a larger number asked for is the same policy again.
            by_arm.setdefault(row.point["arm"], {})[row.num_trained] = row
    growths = []
    for arm, rows in by_arm.items():
        ordered = [rows[number] for number in sorted(rows)]
        if len(ordered) > 1:
            law = fit(list(map(_measurement, ordered)), low_is_good=_low_is_good(content))
            growths.append(Growth(arm=arm, rows=ordered, law=law))
    drawn = sorted(growths, key=lambda growth: -growth.rows[-1].gain)[:MAX_PANELS]
    return sorted(drawn, key=lambda growth: order_of_arm(growth.arm))


def _measurement(row: StudyRow) -> Measurement:
    half = (row.difference_high - row.difference_low) / 2
    return Measurement(num_pairs=row.num_trained, score=row.start + row.difference, half_width=half)


def _growth(content: StudyContent, growths: Sequence[Growth]) -> Figure | None:
    level = growths[0].rows[0].start if growths else math.nan
    return study_plots.against_pairs(growths, _unit(content), level) if growths else None


def _parallel(content: StudyContent, finals: Sequence[StudyRow]) -> Figure | None:
    columns = {name: [row.point[name] for row in finals] for name in POINT_FIELDS}
    varying = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if len(varying) < 2 or len(finals) < 3:
        return None
    scores = [row.start + row.difference for row in finals]
    return study_plots.parallel(varying, scores, _unit(content), low_is_good=_low_is_good(content))


def _unequal(content: StudyContent) -> Figure | None:
    return study_views.unequal(content.views) if any(facts.num_prompts for facts in content.views) else None


def _judged(content: StudyContent) -> Figure | None:
    known = [facts for facts in content.views if facts.judged and sum(facts.judged.values())]
    return study_views.judged(known) if known else None


def _lengths(content: StudyContent) -> Figure | None:
    views = sorted(content.views, key=lambda facts: order_of_arm(facts.view))
    panels = {facts.view: (facts.chosen_tokens, facts.rejected_tokens) for facts in views}
    panels = {view: pair for view, pair in panels.items() if sum(pair[0]) and sum(pair[1])}
    return study_views.lengths(panels, ("chosen", "rejected"), "% of pairs") if panels else None


def _answer_lengths(content: StudyContent) -> Figure | None:
    start, best = content.start_tokens, content.best_tokens
    if not (sum(start) and sum(best)):
        return None
    return study_views.lengths({content.objective[0]: (start, best)}, ("start", "best policy"), "% of answers")


def _test_time_rows(content: StudyContent) -> list[tuple[str, Comparison]]:
    found = [
        (view, row) for view, rows in content.test_time.items() for row in rows if row.metric == content.objective[1]
    ]
    return sorted(found, key=lambda item: order_of_arm(item[0]))


def _test_time(content: StudyContent) -> Figure | None:
    rows = [(view, row) for view, row in _test_time_rows(content) if math.isfinite(row.difference)]
    marks = {
        view: Mark(value=row.policy, low=row.start + row.difference_low, high=row.start + row.difference_high)
        for view, row in rows
    }
    series = [Series(label="seen in the view, without training", marks=marks)]
    return study_plots.against_strength(series, _unit(content), level=rows[0][1].start) if rows else None


def _rungs(content: StudyContent, finals: Sequence[StudyRow]) -> list[StudyRow]:
    """What was measured on the way, view by view."""
    passed = [row for row in objective_rows(content) if row not in finals]
    return sorted(passed, key=lambda row: (order_of_arm(row.point["arm"]), str(row.setting), row.asked))


def _points(content: StudyContent, rows: Sequence[StudyRow], final: bool) -> dict[str, Any]:
    """Rows of the table of points, with what is to be said of each."""
    best = StudyRow(point=content.best).setting if content.best else None
    failed = {row.setting for row in failed_rows(content)}
    placed = forest(rows)
    return {
        "ticks": placed["ticks"],
        "rows": [
            {
                "row": row,
                "places": (place, low, high),
                "values": _values(content, row),
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


def _others(content: StudyContent, best: Sequence[StudyRow]) -> dict[str, Any] | None:
    rows = [row for row in best if (row.benchmark, row.metric) != content.objective]
    return forest(rows) if rows else None


def _intervals(finals: Sequence[StudyRow]) -> str:
    """What the intervals hold."""
    repeats = {len(row.differences) for row in finals}
    if repeats == {1}:
        return "With one repeat, intervals hold only the choice of test images, not that of a training seed."
    alone = "; with one repeat, only that of images" if 1 in repeats else ""
    return f"Intervals hold the choice of test images and that of repeats{alone}."


def _held_hours(content: StudyContent) -> str:
    total = sum(content.hours.values())
    if not total:
        return ""
    each = ", ".join(f"{stage} {hours:.3g}" for stage, hours in content.hours.items() if hours)
    kind = "GPU" if content.on_gpus else "CPU"
    return f"{kind}-hours held for engines and training workers: {total:.3g} ({each})."


def _saved(content: StudyContent) -> str:
    if not content.passes_apart:
        return ""
    saved = content.passes_apart - content.passes_done
    return (
        f"Generation passes over training prompts: {content.passes_done:,}. The same trials one by one would have "
        f"needed {content.passes_apart:,}: {saved:,} were saved ({100 * saved / max(1, content.passes_apart):.0f} %)."
    )
