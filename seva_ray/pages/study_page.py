"""The report of a study: one HTML file with everything in it, under the same rules as a run's (run_page.py).

In: what the study has found, as plain data. Out: the page as text. A part without data is left out.
"""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from seva_ray.benchmarks.base import LOW_IS_GOOD
from seva_ray.pages import study_figures, view_figures
from seva_ray.pages.figures import svg_of
from seva_ray.pages.pair_cards import data_uri
from seva_ray.pages.parallel_figure import parallel
from seva_ray.pages.settings import setting_rows
from seva_ray.pages.study_figures import Growth, Mark, Series, score_of
from seva_ray.pages.study_tables import (
    axis_values,
    description,
    heat_map,
    held_axes,
    hours_note,
    interval_note,
    other_metrics,
    passes_note,
    point_table,
    rung_rows,
    varying_axes,
)
from seva_ray.pages.templates import forest, page
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
"""Largest number of lines in one figure."""
FEW_METRICS = 8
"""Largest number of metrics that are shown at once; more are folded away."""
MAX_PANELS = 24
"""Largest number of panels in the figure of scores over pairs."""


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
        best_point=description(content, content.best or {}),
        num_candidates=sum(not row.point["arm"].startswith(SWAPPED) for row in finals),
        others=other_metrics(content, best),
        several=len({row.benchmark for row in best}) > 1,
        few=FEW_METRICS,
        strength=_image(_strength(content, finals)),
        held=held_axes(content, reference_of(content), "arm", "beta"),
        settings_apart=_image(_settings_apart(content, finals)),
        held_on_pairs=held_axes(content, reference_of_growth(content), "arm"),
        intervals=interval_note(finals),
        heat=heat_map(content, finals),
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
        columns=[(name := named(axis))[:1].upper() + name[1:] for axis in varying_axes(content)],
        finals=point_table(content, finals, final=True),
        rungs=point_table(content, rung_rows(content, finals), final=False),
        failed=[(axis_values(content, row), row) for row in failed_rows(content)],
        settings=setting_rows(content.config),
        costs=[line for line in (hours_note(content), passes_note(content)) if line],
    )


def _image(figure: Figure | None) -> str:
    return data_uri(svg_of(figure), "image/svg+xml") if figure else ""


def _unit(content: StudyContent) -> str:
    return "{}\n{}, %".format(*content.objective)


def _low_is_good(content: StudyContent) -> bool:
    return content.objective[1].endswith(LOW_IS_GOOD)


def _strength(content: StudyContent, finals: Sequence[StudyRow]) -> Figure | None:
    """A line for each beta if they are few, or else only that of the reference point."""
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
    if not rows or len(rows) == 1 < len(finals):  # the points differ in other settings
        return None
    return study_figures.against_strength(series, _unit(content), level=rows[0].start)


def _settings_apart(content: StudyContent, finals: Sequence[StudyRow]) -> Figure | None:
    """A panel for each axis that no other figure shows, at the reference point."""
    panels, level = dict[str, dict[str, Mark]](), math.nan
    for axis in varying_axes(content):
        rows = [] if axis in ("arm", "beta") else at_reference(reference_of(content), finals, axis)
        if len(rows) > 1:
            place = {value: number for number, value in enumerate(content.axes[axis])}
            ordered = sorted(rows, key=lambda row: place[row.point[axis]])
            panels[named(axis)] = {shown(row.point[axis]): score_of(row, is_stopped(content, row)) for row in ordered}
            level = rows[0].start
    return study_figures.against_settings(panels, _unit(content), level) if panels else None


def _growths(content: StudyContent) -> list[Growth]:
    """The best conditions at the reference point that were measured on several numbers of pairs, by strength."""
    by_arm: dict[str, dict[float, StudyRow]] = {}
    for row in at_reference(reference_of_growth(content), objective_rows(content), "arm"):
        if math.isfinite(row.num_trained):
            # If no more pairs exist, a larger requested number is the same policy again.
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
    return study_figures.against_pairs(growths, _unit(content), level) if growths else None


def _parallel(content: StudyContent, finals: Sequence[StudyRow]) -> Figure | None:
    columns = {name: [row.point[name] for row in finals] for name in POINT_FIELDS}
    varying = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if len(varying) < 2 or len(finals) < 3:
        return None
    scores = [row.start + row.difference for row in finals]
    return parallel(varying, scores, _unit(content), low_is_good=_low_is_good(content))


def _unequal(content: StudyContent) -> Figure | None:
    return view_figures.unequal(content.views) if any(facts.num_prompts for facts in content.views) else None


def _judged(content: StudyContent) -> Figure | None:
    known = [facts for facts in content.views if facts.judged and sum(facts.judged.values())]
    return view_figures.judged(known) if known else None


def _lengths(content: StudyContent) -> Figure | None:
    views = sorted(content.views, key=lambda facts: order_of_arm(facts.view))
    panels = {facts.view: (facts.chosen_tokens, facts.rejected_tokens) for facts in views}
    panels = {view: pair for view, pair in panels.items() if sum(pair[0]) and sum(pair[1])}
    return view_figures.lengths(panels, ("chosen", "rejected"), "% of pairs") if panels else None


def _answer_lengths(content: StudyContent) -> Figure | None:
    start, best = content.start_tokens, content.best_tokens
    if not (sum(start) and sum(best)):
        return None
    return view_figures.lengths({content.objective[0]: (start, best)}, ("base model", "best policy"), "% of answers")


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
    return study_figures.against_strength(series, _unit(content), level=rows[0][1].start) if rows else None
