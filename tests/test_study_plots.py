from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from seva_ray.pages import study_figures, view_figures
from seva_ray.pages.figures import svg_of
from seva_ray.pages.parallel_figure import parallel
from seva_ray.pages.study_figures import Mark, Series
from seva_ray.studies.space import SWAPPED
from seva_ray.studies.study_rows import ViewFacts
from tests.studies import ARMS, START, STEPS, row

CONTROLS = [f"{SWAPPED}diffusion-{step}" for step in (500, 800)]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_strengths_stand_at_their_place_and_all_other_views_beside_them() -> None:
    marks = {arm: Mark(value=START + place, low=START, high=START + 9) for place, arm in enumerate(ARMS)}
    dial, beside = study_figures.against_strength([Series(label="beta 0.1", marks=marks)], "f1, %", level=START).axes
    assert list(dial.get_xticks()) == list(STEPS)
    assert dial.get_xlabel() == "noise step of diffusion"
    assert [label.get_text() for label in beside.get_xticklabels()] == ["moco", f"{SWAPPED}diffusion-500"]
    drawn = next(line for line in dial.lines if line.get_label() == "beta 0.1")
    assert list(drawn.get_xdata()) == list(STEPS)
    assert list(drawn.get_ydata()) == [START + place for place in range(len(STEPS))]
    assert dial.get_ylim()[0] < START < START + 9 < dial.get_ylim()[1]


def test_a_dial_with_one_value_has_no_panel_and_each_other_dial_its_own() -> None:
    arms = ("diffusion-500", "diffusion-800", "pad-20", "random_rotation-30", "random_rotation-90", "moco", *CONTROLS)
    series = [Series(label="kept", marks={arm: Mark(value=1.0) for arm in arms})]
    *dials, beside = study_figures.against_strength(series, "%").axes
    assert [axes.get_xlabel() for axes in dials] == ["noise step of diffusion", "strength of random_rotation"]
    assert [label.get_text() for label in beside.get_xticklabels()] == ["pad-20", "moco", *CONTROLS]


def test_many_views_get_a_row_of_their_own_with_the_same_scores() -> None:
    arms = [*(f"diffusion-{step}" for step in STEPS), *(f"view{number}" for number in range(16))]
    series = [Series(label="kept", marks={arm: Mark(value=place) for place, arm in enumerate(arms)})]
    dial, beside = study_figures.against_strength(series, "%").axes
    assert dial.get_ylim() == beside.get_ylim()
    assert dial.get_ylim()[0] <= 0 < len(arms) - 1 <= dial.get_ylim()[1]
    tops = [axes.figure.bbox.y1 for axes in (dial, beside)]
    assert tops[0] > tops[1]


def test_a_point_that_was_stopped_early_is_hollow() -> None:
    marks = {"diffusion-100": Mark(value=1.0, hollow=True), "diffusion-500": Mark(value=2.0)}
    (axes,) = study_figures.against_strength([Series(label="l", marks=marks)], "%").axes
    assert [list(line.get_xdata()) for line in axes.lines if line.get_markerfacecolor() == "white"] == [[100]]


def test_parallel_axes_have_every_value_and_end_at_the_scores() -> None:
    columns: dict[str, list[Any]] = {
        "arm": ["moco", "diffusion-500", "moco"],
        "beta": [0.2, 0.1, 0.05],
        "num_pairs": [None, 125, 125],
    }
    figure = parallel(columns, [61.0, 67.0, 64.0], "f1, %")
    assert {"view", "moco", "diffusion-500", "beta", "0.05", "0.1", "0.2", "pairs", "125", "all", "f1, %"} <= set(
        texts(figure)
    )
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    low, high = study_figures.limits([61.0, 67.0])
    assert sorted(ends) == pytest.approx([(score - low) / (high - low) for score in (61, 64, 67)])


def test_shares_are_of_prompts_and_of_judged_pairs() -> None:
    judged = {"chosen right": 30, "rejected right": 10, "neither": 10}
    facts = [ViewFacts(view=f"diffusion-{step}", num_prompts=200, num_kept=80, judged=judged) for step in (1, 2)]
    (kept,) = view_figures.unequal(facts).axes
    (right,) = view_figures.judged(facts).axes
    assert list(kept.lines[0].get_ydata()) == [40, 40]
    shown = {line.get_label(): list(line.get_ydata()) for line in right.lines if not line.get_label().startswith("_")}
    assert shown == {
        "chosen right, rejected wrong": [60, 60],
        "rejected right, chosen wrong": [20, 20],
        "neither": [20, 20],
    }


def test_a_dollar_in_a_label_is_no_mathematics() -> None:
    label = r"$\frac{$"
    series = [Series(label=label + side, marks={label: Mark(value=1.0)}) for side in "ab"]
    assert svg_of(study_figures.against_strength(series, label)).startswith(b"<?xml")


def test_lengths_have_their_means_and_add_up_to_100() -> None:
    figure = view_figures.lengths(
        {"moco": ([0, 0, 5, 5], [0] * 5 + [999] + [0] * 94 + [1])}, ("chosen", "rejected"), "% of pairs"
    )
    assert {"moco", "chosen, mean 2.5", "rejected, mean 5.1"} <= set(texts(figure))
    outlines = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert [sum(patch.get_data().values) for patch in outlines] == pytest.approx([100, 100])


def test_a_panel_of_pairs_reaches_to_twice_the_largest_number() -> None:
    rows = [row(place, num_pairs=size) for place, size in enumerate((125, 250, 500))]
    figure = study_figures.against_pairs([study_figures.Growth(arm="moco", rows=rows, law=None)], "f1, %", START - 5)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["125", "250", "500", "1,000"]
    assert axes.get_xlim()[1] > 1000
    assert axes.get_ylim()[0] < START - 5 < START + 3.2 < axes.get_ylim()[1]


def test_where_low_is_good_the_lowest_score_stands_at_the_top() -> None:
    columns: dict[str, list[Any]] = {"beta": [0.1, 0.2, 0.3], "lora_rank": [8, 16, 8]}
    for low_is_good in (False, True):
        figure = parallel(columns, [61.0, 67.0, 64.0], "CHAIR, %", low_is_good=low_is_good)
        (best,) = [line for line in figure.axes[0].lines if line.get_linewidth() == 3]
        others = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.2 and len(line.get_xdata()) == 3]
        ends = {round(float(line.get_ydata()[0]), 3): line.get_ydata()[-1] for line in (best, *others)}
        assert len(ends) == 3
        assert best.get_ydata()[-1] == max(ends.values())
        assert best.get_ydata()[0] == pytest.approx(1 / 6 if low_is_good else 1 / 2, abs=0.11)


def test_a_narrow_figure_has_its_whole_legend() -> None:
    judged = {"chosen right": 30, "rejected right": 10, "neither": 10}
    views = [ViewFacts(view=f"diffusion-{step}", num_prompts=200, num_kept=80, judged=judged) for step in STEPS[:5]]
    figure = view_figures.judged(views)
    figure.draw_without_rendering()
    (legend,) = figure.findobj(Legend)
    assert len(legend.get_texts()) == 3
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
