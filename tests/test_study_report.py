import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seva_ray.pages import study_figures
from seva_ray.pages.study_page import _growths, _settings_apart, render
from seva_ray.studies.space import SWAPPED
from seva_ray.studies.study_rows import (
    StudyContent,
    StudyRow,
    ViewFacts,
    at_reference,
    best_rows,
    final_rows,
    is_stopped,
    reference_of,
)
from tests.studies import ARMS, BETAS, OBJECTIVE, failed, point, row, whole_study
from tests.test_report import HOSTILE, Page

CHAIR = ("amber", "AMBER CHAIR, low is good")


def study(*rows: StudyRow, **parts: Any) -> StudyContent:
    """The content of a study of these rows alone. Its axes are the fields in which they differ."""
    fields = rows[0].point if rows else {}
    axes = {name: list(dict.fromkeys(row.point[name] for row in rows)) for name in fields}
    return replace(StudyContent(title="t", objective=OBJECTIVE, axes=axes, rows=rows), **parts)


def page(content: StudyContent) -> Page:
    return Page(render(content))


def words(content: StudyContent) -> str:
    return " ".join(page(content).text.split())


def sections(found: Page) -> list[str]:
    return [attrs["id"] for tag, attrs in found.tags if tag == "section" and "id" in attrs]


@pytest.fixture(scope="module")
def whole() -> Page:
    return page(whole_study())


def test_a_whole_study_has_every_section_each_in_the_navigation(whole: Page) -> None:
    named = ["best", "strength", "amount", "axes", "differences", "lengths", "test-time", "points", "time", "making"]
    assert sections(whole) == named
    assert [attrs["href"] for tag, attrs in whole.tags if tag == "a"] == [f"#{name}" for name in named]
    assert sum(tag == "img" for tag, _ in whole.tags) == 8


def test_the_page_loads_nothing_and_forbids_itself_to(whole: Page) -> None:
    loads = [value for _, attrs in whole.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert all(value.startswith(("data:image/svg+xml;base64,", "#")) for value in loads)
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in whole.tags}
    policy = next(attrs["content"] for _, attrs in whole.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_an_empty_study_renders_and_has_no_section() -> None:
    empty = page(StudyContent(title="Empty", objective=OBJECTIVE, axes={}, rows=[]))
    assert sections(empty) == []
    assert "This study has found nothing yet." in empty.text


def test_a_study_whose_points_all_failed_shows_their_errors_and_no_figure() -> None:
    found = page(study(failed("no pairs are left"), best=point()))
    assert sections(found) == ["points"]
    assert "no pairs are left" in found.text
    assert "img" not in [tag for tag, _ in found.tags]


def hostile_study(text: str) -> StudyContent:
    """One text in every place that has any."""
    content, objective = whole_study(), (text, text + "2")
    renamed = {"diffusion-500": text, f"{SWAPPED}diffusion-500": SWAPPED + text}

    def moved(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, "arm": renamed.get(values["arm"], values["arm"])}

    some = [item for item in content.rows if item.point["arm"] in (*renamed, "moco", "diffusion-900")]
    rows = [replace(item, point=moved(item.point), error=item.error and text) for item in some]
    rows += [failed(text)]
    rows = [
        replace(
            item,
            benchmark=text if item.benchmark == OBJECTIVE[0] else item.benchmark,
            metric=objective[1] if item.metric == OBJECTIVE[1] else item.metric,
        )
        for item in rows
    ]
    seen = next(iter(content.test_time.values()))[0]
    return replace(
        content,
        title=text,
        summary=[text],
        objective=objective,
        rows=rows,
        axes={**content.axes, "arm": [renamed.get(arm, arm) for arm in ARMS]},
        views=[replace(facts, view=renamed.get(facts.view, facts.view)) for facts in content.views],
        test_time={text: [replace(seen, metric=objective[1])]},
        best=moved(point(num_pairs=125)),
        best_command=text,
        best_directory=text,
        seconds=[replace(content.seconds[0], stage=text)],
        config={text: text},
        versions={text: text},
        command=text,
    )


def test_hostile_text_stays_text_wherever_it_comes_in() -> None:
    hostile, tame = page(hostile_study(HOSTILE + r" $\frac{$" + "\ud83d")), page(hostile_study("tame"))
    shapes = [Counter((tag, *sorted(attrs)) for tag, attrs in found.tags) for found in (hostile, tame)]
    assert shapes[0] == shapes[1]  # in any order: rows are sorted by the names of views
    assert hostile.text.count("<script>alert(1)</script>") > 15
    assert "{{ 7 * 7 }}" in hostile.text


def test_no_number_is_printed_that_is_none() -> None:
    undefined = replace(
        row(1.0, arm="moco"), difference=math.nan, difference_low=math.nan, difference_high=math.nan, policy=math.nan
    )
    lone = [
        replace(row(1.0 + place, beta=beta, num_pairs=None), difference_low=math.nan, difference_high=math.nan,
                trained_pairs=math.nan, policy=math.nan)
        for place, beta in enumerate(BETAS)
    ]  # fmt: skip
    empty = ViewFacts(view="moco", num_prompts=0, num_kept=0, judged={}, chosen_tokens=[0, 0], rejected_tokens=[])
    found = page(study(undefined, *lone, views=[empty], best=lone[0].point))
    assert not re.search(r"\b(nan|inf|none)\b", found.text, re.IGNORECASE)
    assert "+1.0 [–, –]" in " ".join(found.text.split())
    assert sections(found) == ["best", "strength", "points"]


@pytest.mark.parametrize("template", ["study_page.html.j2", "pieces.html.j2"])
def test_every_difference_has_its_interval_beside_it(template: str) -> None:
    lines = (Path(study_figures.__file__).parent / template).read_text().splitlines()
    signed = [line for line in lines if "| signed }}" in line and 'class="range">[' not in line]
    assert signed
    assert [line for line in signed if "interval(" not in line] == []


def test_the_best_point_has_its_numbers_its_command_its_place_and_its_other_metrics(whole: Page) -> None:
    text = " ".join(whole.text.split())
    for part in (
        "diffusion-500, beta 0.1, pairs 500",
        "--train.beta 0.1 --train.num-pairs 500",
        "Exported to runs/exports/study-best",
        "+6.0 [+4.7, +7.2] points",
        "toy-caption chair_s 61.2",
        "It is the best of 23 settings, and was chosen on the same test images as its gain",
    ):
        assert part in text


def test_a_single_setting_is_not_called_the_best_of_many() -> None:
    assert "optimistic" not in words(study(row(2.0), row(0.0, arm=f"{SWAPPED}moco"), best=point()))
    assert "optimistic" in words(study(row(2.0), row(1.0, beta=0.2), best=point()))


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (row(2.0, half=1.2), ""),
        (row(1.0, half=1.2), "The 95% interval holds 0, so it is not distinguishable from no gain."),
        (row(-1.0, half=1.2), "The 95% interval holds 0, so it is not distinguishable from no gain."),
        (row(1.2, half=1.2), "The 95% interval holds 0, so it is not distinguishable from no gain."),
        (row(-2.0, half=1.2), "It is worse than the base model."),
        (row(-2.0, half=1.2, metric=CHAIR), ""),
        (row(2.0, half=1.2, metric=CHAIR), "It is worse than the base model."),
        (row(2.0, half=math.nan), "It has no 95% interval, so it is not distinguishable from no gain."),
    ],
)
def test_the_headline_says_if_the_best_points_gain_may_be_chance(best: StudyRow, said: str) -> None:
    assert best.caveat == said
    text = words(replace(study(best, best=best.point), objective=(best.benchmark, best.metric)))
    headline = text[text.index("Best point ") : text.index("ntervals hold")]
    assert (said or "]") in headline
    assert ("distinguishable" in headline or "worse" in headline) == bool(said)


def test_how_far_the_best_is_ahead_stands_beside_each_other_setting() -> None:
    other = replace(row(0.5, beta=0.2), ahead=1.5, ahead_low=-0.25, ahead_high=3.25)
    assert re.search(r"\+1\.5\s+\[\u22120\.2, \+3\.2\]", words(study(row(2.0), other, best=point())))


@pytest.mark.parametrize(("repeats", "alone"), [(1, True), (3, False)])
def test_with_one_repeat_the_intervals_are_said_to_hold_only_the_images(repeats: int, alone: bool) -> None:
    text = words(study(row(2.0, repeats=repeats), best=point()))
    assert ("intervals hold only the choice of test images" in text) is alone
    assert ("that of training seeds" in text) is not alone


def test_a_setting_ends_at_the_largest_number_of_pairs_that_was_measured() -> None:
    lost = replace(row(9.0, num_pairs=1000), error="lost")
    content = study(row(1.0, num_pairs=125), row(3.0, num_pairs=500), row(2.0, num_pairs=250), lost, row(2.5, beta=0.2))
    assert [(item.difference, item.asked) for item in final_rows(content)] == [(3.0, 500), (2.5, 500)]


def test_a_curve_beyond_the_planned_number_of_pairs_neither_replaces_nor_stops_a_setting() -> None:
    rows = [row(3.0, num_pairs=1000), row(2.0, num_pairs=500), row(9.0, beta=0.2, num_pairs=500)]
    content = study(*rows, axes={"num_pairs": (500,)})
    finals = final_rows(content)
    assert [(item.difference, item.asked) for item in finals] == [(9.0, 500), (2.0, 500)]
    assert not any(is_stopped(content, item) for item in finals)


def test_a_curve_is_shown_where_it_was_measured_also_when_the_best_point_is_elsewhere() -> None:
    curve = [row(place, num_pairs=size) for place, size in enumerate((125, 250, 500))]
    content = study(*curve, row(7.0, beta=0.2), best=point(beta=0.2))
    (growth,) = _growths(content)
    assert [item.num_trained for item in growth.rows] == [125, 250, 500]
    assert "Each view at beta 0.1, on more and more pairs" in words(content)
    there = [replace(item, point=point(beta=0.2, num_pairs=item.point["num_pairs"])) for item in curve]
    at_best = study(*curve, *there, best=point(beta=0.2))
    assert {item.point["beta"] for growth in _growths(at_best) for item in growth.rows} == {0.2}


def test_only_a_point_with_fewer_pairs_than_the_largest_asked_for_was_stopped() -> None:
    early, late, every = row(1.0, num_pairs=125), row(1.0, beta=0.2), row(1.0, beta=0.3, num_pairs=None)
    assert [is_stopped(study(early, late), item) for item in (early, late)] == [True, False]
    assert [is_stopped(study(early, late, every), item) for item in (late, every)] == [True, False]
    assert is_stopped(study(early, axes={"num_pairs": (125, 500)}), early)


def test_the_table_marks_stopped_failed_and_control_points() -> None:
    content = study(
        row(3.0),
        row(2.0, arm="moco", num_pairs=125),
        row(1.0, arm="byol", num_pairs=125),
        failed("out of memory", arm="byol"),
        row(0.1, arm=f"{SWAPPED}diffusion-500"),
        best=point(),
    )
    text = words(content)
    for part in (
        "diffusion-500 best 500", "moco stopped early 125", "byol failed on more pairs 125",
        f"{SWAPPED}diffusion-500 control 500", "byol500out of memory",
    ):  # fmt: skip
        assert part in text


def test_points_are_sorted_by_difference_and_failed_ones_come_last(whole: Page) -> None:
    text = " ".join(whole.text.split())
    table = text[text.index("All points toy-yesno") : text.index("The same settings on fewer pairs")]
    differences = [float(number.replace("−", "-")) for number in re.findall(r"([+−]?\d+\.\d) \[", table)]
    assert len(differences) == 26
    assert differences == sorted(differences, reverse=True)
    assert text.index("Failed (2)") > text.index("All points toy-yesno")


def test_the_metrics_of_the_best_point_are_of_its_own_number_of_pairs() -> None:
    rows = [row(2.0, num_pairs=125), row(1.0, num_pairs=500), row(7.0, beta=0.2)]
    assert [item.difference for item in best_rows(study(*rows, best=point(num_pairs=125)))] == [2.0]
    assert [item.difference for item in best_rows(study(*rows, best=point(num_pairs=None)))] == [1.0]


def test_figures_of_some_axes_keep_the_others_at_the_best_point() -> None:
    rows = [row(1.0), row(2.0, beta=0.2), row(3.0, arm="moco", beta=0.2), row(4.0, arm="moco")]
    at_best = at_reference(reference_of(study(*rows, best=point(beta=0.2))), rows, "arm")
    at_first = at_reference(reference_of(study(*rows)), rows, "arm")
    assert [item.difference for item in at_best] == [2.0, 3.0]
    assert [item.difference for item in at_first] == [1.0, 4.0]


def test_each_setting_that_no_other_figure_shows_has_a_panel_at_the_best_point() -> None:
    best, small = row(2.0), replace(row(1.0), point=point() | {"lora_rank": 4})
    elsewhere = replace(row(-1.0), point=point() | {"lora_rank": 4, "source": "gqa"})
    content = study(small, best, elsewhere, best=best.point)
    figure = _settings_apart(content, final_rows(content))
    assert figure is not None
    (panel,) = (axes for axes in figure.axes if axes.get_visible())
    assert panel.get_title(loc="left") == "LoRA rank", "no point differs from the best one in the source alone"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["4", "16"]
    assert [tuple(line.get_ydata()) for line in panel.lines if line.get_marker() == "o"] == [(62.2, 63.2)]
    assert "settings" in sections(page(content))
    assert "strength" not in sections(page(content)), "a figure of one point shows nothing"


def test_a_view_with_too_few_numbers_of_pairs_says_so_instead_of_a_fit() -> None:
    rows = [row(place, arm=arm, num_pairs=size) for arm, sizes in (("moco", (125, 250)), ("byol", (125, 250, 500)))
            for place, size in enumerate(sizes)]  # fmt: skip
    text = words(study(*rows))
    assert "moco 250 62.2 no fit: fewer than 3 numbers of pairs" in text
    assert re.search(r"byol 500 63\.2 [+]?\d\.\d \[\d\.\d, \+\d\.\d\]", text)


def test_asking_for_more_pairs_than_there_are_is_no_new_point_of_the_curve() -> None:
    rows = [replace(row(1.0, num_pairs=size), trained_pairs=min(size, 200.0)) for size in (125, 250, 500)]
    (growth,) = _growths(study(*rows))
    assert [item.num_trained for item in growth.rows] == [125, 200]


def test_passes_are_counted_against_trials_done_one_by_one(whole: Page) -> None:
    assert "training prompts: 27. The same trials one by one would have needed 162: 135 were saved (83%)" in whole.text


def test_the_hours_that_were_held_are_told_by_stage(whole: Page) -> None:
    assert (
        "GPU-hours held for engines and training workers: 1.38 (generate 0.23, reference 0.07, train 1.08)"
        in whole.text
    )
    on_cpus = render(replace(whole_study(), on_gpus=False))
    assert "CPU-hours held" in on_cpus
    assert "-hours held" not in render(replace(whole_study(), hours={}))


def test_the_heat_map_is_white_at_0_and_darkest_at_the_largest_difference() -> None:
    rows = [row(value, beta=beta) for value, beta in ((4.0, 0.1), (0.0, 0.2), (-4.0, 0.3), (2.0, 0.4))]
    html = render(study(*rows))
    cells = re.findall(r'<td style="background:rgb\((\d+),(\d+),(\d+)\)"', html)
    (blue, white, orange, paler) = [tuple(map(int, cell)) for cell in cells]
    assert white == (255, 255, 255)
    assert blue[2] > blue[0]
    assert orange[0] > orange[2]
    assert sum(blue) < sum(paler) < sum(white)


def test_where_low_is_good_the_lowest_is_the_best_and_blue() -> None:
    rows = [row(value, beta=beta, metric=CHAIR) for value, beta in ((3.0, 0.1), (-4.0, 0.2), (-1.0, 0.3))]
    content = replace(study(*rows), objective=CHAIR)
    assert [item.difference for item in final_rows(content)] == [-4.0, -1.0, 3.0]
    cells = re.findall(r'<td style="background:rgb\((\d+),\d+,(\d+)\)"', render(content))
    assert [int(blue) > int(red) for red, blue in cells] == [False, True, True]
