import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from seva_ray.core.artifacts import StageTime
from seva_ray.pages import rounds_page, run_page
from seva_ray.pages.pair_cards import ANSWER_LIMIT, marked_differences
from seva_ray.pages.rounds_content import RoundsContent, RoundScores
from seva_ray.pages.run_content import Flip, Funnel, Hallucinated, Lengths, ReportContent, Sample, ScoreTable
from seva_ray.pages.run_page import NUM_HALLUCINATED, render
from seva_ray.pages.templates import NUM_SHOWN
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS
from seva_ray.scoring.intervals import Comparison, Repeated

HOSTILE = """'"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)> {{ 7 * 7 }} <!-- </style>"""


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and the text inside <mark>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.marked: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if self._open and self._open[-1] == "mark":
            self.marked.append(data)

    def styles(self, css_class: str) -> list[str]:
        return [attrs["style"] for _, attrs in self.tags if attrs.get("class") == css_class and "style" in attrs]

    def count(self, tag: str, css_class: str) -> int:
        return sum(name == tag and css_class in attrs.get("class", "").split() for name, attrs in self.tags)


def png(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, width), (200, 30, 30)).save(buffer, "png")
    return buffer.getvalue()


def comparison(metric: str, difference: float, half_width: float) -> Comparison:
    return Comparison(
        metric=metric,
        start=50.0,
        start_low=48.5,
        start_high=51.5,
        policy=50.0 + difference,
        policy_low=48.25 + difference,
        policy_high=51.75 + difference,
        difference=difference,
        difference_low=difference - half_width,
        difference_high=difference + half_width,
        num_images=1200,
    )


def sample(chosen: str = "a red dog", rejected: str = "a blue dog", width: int = 48) -> Sample:
    return Sample(
        prompt_id="p-1",
        question="what is there",
        view="diffusion-500",
        verdict="kept",
        image_png=png(width),
        augmented_png=png(width),
        chosen=chosen,
        rejected=rejected,
    )


def flip(text: str = "a red dog", gained: bool = True) -> Flip:
    return Flip(
        prompt_id=text, question=text, benchmark=text, image_png=png(48), start=text, policy="a blue dog", gained=gained
    )


def full_content(text: str = "plain") -> ReportContent:
    steps = [{"step": i, "loss": 0.7 / i, "rewards/margins": i / 9, "rewards/accuracies": 0.5} for i in range(1, 9)]
    shown = replace(sample(text, "unlike all of it"), question=text, prompt_id=text, view=text)
    return ReportContent(
        title=text,
        summary=[text, text],
        funnels=[Funnel(view=text, num_prompts=10, verdicts={"kept": 4, "equal": 6})],
        failures={text: [text]},
        samples=[shown],
        training=steps,
        scores=[ScoreTable(benchmark=text, comparisons=[comparison(text, 2.0, 1.0)], notes=[text])],
        lengths=[Lengths(benchmark=text, start=[1, 2, 3], policy=[4])],
        hallucinated=[Hallucinated(benchmark=text, start={text: 3}, policy={})],
        consistency=[ScoreTable(benchmark=text, comparisons=[comparison(text, 2.0, 1.0)], notes=[text])],
        flips=[flip(text)],
        seconds=[StageTime(stage=text, seconds=4.0, reused=False)],
        config={text: {text: text, "items": [text]}},
        versions={text: text},
        command=text,
    )


def test_hostile_text_stays_text_wherever_it_comes_in() -> None:
    hostile, plain = Page(render(full_content(HOSTILE))), Page(render(full_content()))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in hostile.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in hostile.tags}
    assert hostile.text.count("<script>alert(1)</script>") >= 20
    assert "{{ 7 * 7 }}" in hostile.text


def test_the_page_loads_nothing_and_forbids_itself_to() -> None:
    html = render(full_content())
    page = Page(html)
    loads = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert len(loads) > 6
    assert all(value.startswith(("data:image/", "#")) for value in loads)
    assert not re.search(r"https?://|url\(|@import", html)
    policy = next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_an_empty_run_renders_and_says_of_each_part_that_it_is_empty() -> None:
    page = Page(render(ReportContent(title="Empty")))
    assert "img" not in [tag for tag, _ in page.tags]
    for sentence in (
        "No benchmark was scored",
        "This run has no answers",
        "No pairs",
        "No samples",
        "No training steps",
        "No stage was timed",
    ):
        assert sentence in page.text


def test_the_reasons_of_failed_rows_stand_beside_what_they_belong_to() -> None:
    failures = {
        "responses/m/p/clean": ["3 failed, such as 'p0': no such file"],
        "pairs/m/p/moco": ["1 failed: ..."],
    }
    text = Page(render(ReportContent(title="t", failures=failures))).text
    assert "responses/m/p/clean: 3 failed, such as 'p0': no such file" in " ".join(text.split())
    assert "pairs/m/p/moco: 1 failed: ..." in " ".join(text.split())
    assert "Rows that failed" not in Page(render(ReportContent(title="t"))).text


def test_a_view_without_prompts_and_a_benchmark_without_metrics_render() -> None:
    content = ReportContent(
        title="Nothing",
        funnels=[Funnel(view="none", num_prompts=0, verdicts={})],
        scores=[ScoreTable(benchmark="none", comparisons=[])],
        seconds=[StageTime(stage="quick", seconds=0.0, reused=True)],
    )
    assert "This benchmark has no metrics." in Page(render(content)).text


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ({"kept": 4, "equal": 5}, "view v: the verdicts add up to 9, not to 10 prompts"),
        ({"kept": 4, "lost": 6}, "view v: unknown verdict: lost"),
        ({"kept": 14, "equal": -4}, "view v: a count is negative"),
    ],
)
def test_a_funnel_that_does_not_account_for_every_prompt_is_refused(verdicts: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Funnel(view="v", num_prompts=10, verdicts=verdicts)


def test_a_funnel_shows_every_verdict_as_a_sum_and_as_a_bar_of_its_share() -> None:
    verdicts = {"kept": 2000, "equal": 7000, "truncated": 999, "failed": 1}
    page = Page(render(ReportContent(title="t", funnels=[Funnel(view="v", num_prompts=10_000, verdicts=verdicts)])))
    assert "v2,000+7,000+0+999+1=10,000" in re.sub(r"\s", "", page.text)
    widths = [float(s.removeprefix("width:").removesuffix("%")) for v in verdicts for s in page.styles(v)]
    assert widths == [20.0, 70.0, 9.99, 0.01]


def funnel_page(verdicts: dict[str, int]) -> str:
    return render(ReportContent(title="t", funnels=[Funnel(view="v", num_prompts=10, verdicts=verdicts)]))


def explained(page: Page) -> list[str]:
    return [verdict for verdict, text in VERDICTS.items() if f"{verdict.replace('_', ' ')}: {text}." in page.text]


def test_verdicts_of_filters_are_shown_and_explained_only_where_they_occur() -> None:
    plain = Page(funnel_page(dict.fromkeys(VERDICTS, 0) | {"kept": 4, "equal": 6}))
    filtered = Page(funnel_page({"kept": 4, "edit_distance": 5, "surplus": 1}))
    assert not [verdict for verdict in OPTIONAL if verdict.replace("_", " ") in plain.text]
    assert "v4+0+0+0+5+1+0=10" in re.sub(r"\s", "", filtered.text)
    assert explained(plain) == ["equal", "empty", "truncated", "failed"]
    assert explained(filtered) == ["equal", "empty", "truncated", "edit_distance", "surplus", "failed"]


def test_every_verdict_has_a_colour_of_its_own() -> None:
    html = funnel_page(dict.fromkeys(VERDICTS, 1))
    names = [re.search(rf"\.{verdict} \{{ background: var\((--[\w-]+)\)", html) for verdict in VERDICTS]
    colours = [re.search(rf"{name[1]}: (#\w+);", html) for name in names if name]
    assert len({colour[1] for colour in colours if colour}) == len(VERDICTS)


def test_words_that_only_one_answer_has_are_marked_with_the_spaces_between_them() -> None:
    chosen, rejected = marked_differences("a red dog, sitting.", "a very big blue dog, sitting!")
    assert chosen == [("a ", False), ("red", True), (" dog, sitting", False), (".", True)]
    assert rejected == [("a ", False), ("very big blue", True), (" dog, sitting", False), ("!", True)]


@pytest.mark.parametrize(
    "texts", [("", ""), ("same", "same"), ("", "all of it"), ("no\n\nway", "yes\tno "), ("’s", "—")]
)
def test_marking_never_changes_a_text(texts: tuple[str, str]) -> None:
    assert tuple("".join(run for run, _ in runs) for runs in marked_differences(*texts)) == texts


def test_a_sample_shows_its_differing_words_in_mark_tags() -> None:
    assert Page(render(ReportContent(title="t", samples=[sample()]))).marked == ["red", "blue"]


def test_a_sample_shows_its_images_and_only_small_ones_with_hard_pixels() -> None:
    for width, small in ((48, 2), (336, 0)):
        page = Page(render(ReportContent(title="t", samples=[sample(width=width)])))
        images = [attrs for tag, attrs in page.tags if tag == "img"]
        assert [base64.b64decode(image["src"].partition(",")[2]) for image in images] == [png(width)] * 2
        assert page.count("img", "small") == small


def test_a_sample_without_image_or_text_says_so() -> None:
    failed = replace(sample("", ""), verdict="failed", image_png=b"", augmented_png=b"")
    page = Page(render(ReportContent(title="t", samples=[failed])))
    assert "img" not in [tag for tag, _ in page.tags]
    assert page.text.count("no image") == page.text.count("no text") == 2


def test_an_endless_answer_is_cut_and_says_by_how_much() -> None:
    page = Page(render(ReportContent(title="t", samples=[sample(rejected="x" * (ANSWER_LIMIT + 1234))])))
    assert "1,234 more characters" in page.text
    assert "x" * (ANSWER_LIMIT + 1) not in page.text


def test_a_score_row_has_both_values_and_the_difference_each_with_its_interval() -> None:
    text = Page(render(ReportContent(title="t", scores=[table(comparison("F1", -2.0, 1.0))]))).text
    assert "50.0 [48.5, 51.5]" in text
    assert "48.0 [46.2, 49.8]" in text
    assert "−2.0 [−3.0, −1.0]" in text
    assert "paired bootstrap over 1,200 images" in text


def table(*rows: Comparison) -> ScoreTable:
    return ScoreTable(benchmark="pope", comparisons=rows)


def test_a_table_says_what_was_resampled() -> None:
    by_question = replace(table(comparison("q", 2.0, 1.0)), unit="questions")
    for scores, unit in ((table(comparison("i", 2.0, 1.0)), "images"), (by_question, "questions")):
        assert f"the same resampled {unit} for both" in Page(render(ReportContent(title="t", scores=[scores]))).text


def test_two_protocols_with_a_metric_of_one_name_get_a_warning_and_a_table_each() -> None:
    row = comparison("POPE accuracy", 2.0, 1.0)
    seva = ScoreTable(benchmark="pope-seva", protocol="seva", comparisons=[row])
    llava = ScoreTable(benchmark="pope-llava", protocol="llava", comparisons=[row])
    text = Page(render(ReportContent(title="t", scores=[seva, llava]))).text
    assert "pope-seva and pope-llava share names of metrics, but not the protocol (seva, llava)" in text
    same = replace(llava, benchmark="pope-seva-test", protocol="seva")
    other = replace(llava, comparisons=[comparison("GQA accuracy", 2.0, 1.0)])
    for scores in ([seva, same], [seva, other]):
        assert "cannot be compared" not in Page(render(ReportContent(title="t", scores=scores))).text


def test_what_two_judges_or_two_judge_prompts_scored_is_as_little_compared_as_two_protocols() -> None:
    judged = ScoreTable(
        benchmark="mm-vet", protocol="own-prompt a1, judged by j", comparisons=[comparison("MM-Vet", 2.0, 1.0)]
    )
    for protocol in ("own-prompt a1, judged by k", "own-prompt b2, judged by j"):
        other = replace(judged, benchmark="other", protocol=protocol)
        text = Page(render(ReportContent(title="t", scores=[judged, other]))).text
        assert f"not the protocol ({judged.protocol}, {protocol}): their numbers cannot be compared" in text


def test_a_difference_over_several_policies_comes_with_each_ones() -> None:
    row = Repeated(**vars(comparison("F1", 2.0, 1.0)), differences=(1.25, -0.5, 5.25))
    one = Page(render(ReportContent(title="t", scores=[table(comparison("F1", 2.0, 1.0))]))).text
    text = Page(render(ReportContent(title="t", scores=[replace(table(row), num_policies=3)]))).text
    assert "each: +1.2, −0.5, +5.2" in text
    assert "also includes the chance in the choice of training seeds (Student’s over 3 policies)" in text
    assert "each:" not in one
    assert "not that of another training seed" in one


def test_agreement_of_sampled_answers_is_a_table_of_its_own_among_the_answers() -> None:
    again = ScoreTable(benchmark="b, 5 answers", comparisons=[comparison("equal", 2.0, 1.0)], notes=["One left out."])
    page = Page(render(ReportContent(title="t", consistency=[again])))
    assert page.text.index("No benchmark was scored") < page.text.index("answered several times")
    for part in ("b, 5 answers", "+2.0 [+1.0, +3.0]", "One left out."):
        assert part in page.text


def test_only_rows_whose_interval_excludes_zero_are_marked() -> None:
    rows = table(comparison("gain", 2.0, 1.0), comparison("loss", -2.0, 1.0), comparison("chance", 2.0, 3.0))
    html = render(ReportContent(title="t", scores=[rows]))
    assert re.findall(r'class="clear">\s*<th[^>]*>(\w+)', html) == ["gain", "loss"]


def test_the_forest_plot_puts_every_interval_on_one_axis() -> None:
    page = Page(render(ReportContent(title="t", scores=[table(comparison("a", 4.0, 2.0), comparison("b", -1.0, 2.0))])))
    zero = [float(re.findall(r"[\d.]+", style)[0]) for style in page.styles("grid zero")]
    dots = [float(re.findall(r"[\d.]+", style)[0]) for style in page.styles("dot")]
    bars = [[float(number) for number in re.findall(r"[\d.]+", style)] for style in page.styles("bar")]
    point = (dots[0] - zero[0]) / 4
    assert zero[0] == zero[1]
    assert dots[1] == pytest.approx(zero[0] - point, abs=0.1)
    assert bars[0] == pytest.approx([zero[0] + 2 * point, 4 * point], abs=0.1)
    assert bars[1] == pytest.approx([zero[0] - 3 * point, 4 * point], abs=0.1)
    assert all(left >= 0 and left + width <= 100 for left, width in bars)


@pytest.mark.parametrize("difference", [5.0, -5.0, 0.0])
def test_the_forest_plot_always_shows_zero(difference: float) -> None:
    page = Page(render(ReportContent(title="t", scores=[table(comparison("a", difference, abs(difference) / 5))])))
    assert len(page.styles("grid zero")) == 1


def test_an_undefined_metric_is_a_dash_without_a_bar() -> None:
    page = Page(render(ReportContent(title="t", scores=[table(comparison("precision", math.nan, 1.0))])))
    assert "– [–, –]" in page.text
    assert "nan" not in page.text
    assert page.styles("bar") == page.styles("dot") == []


def test_time_adds_up_what_this_run_did_apart_from_what_it_reused() -> None:
    stages = [("generate", 5000.0, True), ("train", 125.0, False), ("evaluate", 7071.0, False)]
    text = Page(
        render(ReportContent(title="t", seconds=[StageTime(stage=s, seconds=sec, reused=r) for s, sec, r in stages]))
    ).text
    assert "2.1 min" in text
    assert "2.0 h in this run, 83.3 min saved by reuse" in text


def test_the_config_is_shown_by_dotted_names() -> None:
    config = {"seed": 0, "train": {"beta": 0.1, "lora": {"targets": ["q_proj"], "extra": {}}}, "root": "runs"}
    text = Page(render(ReportContent(title="t", config=config))).text
    for row in ("seed0", "train.beta0.1", 'train.lora.targets["q_proj"]', "train.lora.extra{}", "rootruns"):
        assert row in text


def test_text_that_is_no_valid_unicode_can_still_be_written_to_a_file() -> None:
    assert "half ? of" in render(ReportContent(title="half \ud83d of")).encode("utf-8").decode("utf-8")


def test_what_a_table_needs_said_stands_under_it() -> None:
    scores = replace(table(comparison("F1", -2.0, 1.0)), notes=["Judged by a judge.", "It gained 7."])
    text = Page(render(ReportContent(title="t", scores=[scores]))).text
    assert "Judged by a judge." in text
    assert "It gained 7." in text


@pytest.mark.parametrize("gained", [True, False])
def test_of_a_flip_the_right_answer_stands_first_and_its_image_is_shown(gained: bool) -> None:
    page = Page(render(ReportContent(title="t", flips=[flip("a red dog", gained)])))
    assert page.marked == (["blue", "red"] if gained else ["red", "blue"])
    assert (page.text.index("policy\n") < page.text.index("base model\n")) == gained
    assert ("gained ·" in page.text, "lost ·" in page.text) == (gained, not gained)
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert base64.b64decode(image["src"].partition(",")[2]) == png(48)


def test_lengths_are_a_histogram_with_both_medians() -> None:
    lengths = [Lengths(benchmark="b", start=[1, 2, 9], policy=[3, 4]), Lengths(benchmark="none", start=[], policy=[])]
    page = Page(render(ReportContent(title="t", lengths=lengths)))
    assert "Median: 2 for the base model, 3.5 for the policy." in page.text
    assert "Median: – for the base model" in page.text
    assert [attrs["src"][:19] for tag, attrs in page.tags if tag == "img"] == ["data:image/svg+xml;"] * 2


def test_things_that_are_not_there_are_listed_by_how_often_they_are_named() -> None:
    named = Hallucinated(benchmark="b", start={"cup": 3, "fork": 1, "cat": 2}, policy={"fork": 4, "dog": 1})
    text = re.sub(r"\s", "", Page(render(ReportContent(title="t", hallucinated=[named]))).text)
    assert "ThingBasemodelPolicyfork14cup30cat20dog01" in text
    many = Hallucinated(benchmark="b", start={f"thing{n:02}": 1 for n in range(30)}, policy={})
    shown = re.findall(r"thing\d\d", Page(render(ReportContent(title="t", hallucinated=[many]))).text)
    assert shown == [f"thing{n:02}" for n in range(NUM_HALLUCINATED)]


# What eyes need


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, str]]:
    """The colours of the light and of the dark page, by name."""
    html = render(full_content())
    dark = html.index("@media screen and (prefers-color-scheme: dark)")
    parts = {"light": html[html.index(":root {") : dark], "dark": html[dark : html.index("box-sizing")]}
    return {name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for name, part in parts.items()}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_graphics_stand_out_from_the_paper_by_3_to_1_and_text_by_4_5_to_1(theme: str) -> None:
    colours = themes()[theme]
    graphics = {*(verdict.replace("_", "-") for verdict in VERDICTS), "mark", "blue", "orange"}
    assert graphics <= colours.keys()
    assert [name for name in graphics if contrast(colours[name], colours["paper"]) < 3] == []
    for ground in ("paper", "soft", "blue-faint"):
        assert [
            name for name in ("ink", "muted", "blue", "orange") if contrast(colours[name], colours[ground]) < 4.5
        ] == []


@pytest.mark.parametrize("template", sorted(Path(run_page.__file__).parent.glob("*.j2")), ids=lambda path: path.name)
def test_paper_is_light_on_a_dark_screen_too_and_nothing_on_it_is_cut(template: Path) -> None:
    style = template.read_text(encoding="utf-8")
    assert set(re.findall(r"(\w* and )?\(prefers-color-scheme", style)) <= {"screen and "}
    scrolled = re.search(r"max-height: [^;}]*; overflow-y: auto", style)
    assert bool(scrolled) == ("max-height: none" in style[style.find("@media print") :])


def test_every_colour_of_the_light_page_has_one_for_the_dark() -> None:
    colours = themes()
    assert colours["light"].keys() == colours["dark"].keys()


def test_a_long_table_shows_its_first_rows_and_folds_the_others() -> None:
    rows = [comparison(f"metric {number}", 1.0, 0.5) for number in range(NUM_SHOWN + 3)]
    html = render(replace(full_content(), scores=[table(*rows)]))
    shown, _, folded = html.partition('<details class="more">')
    assert "3 more metrics" in folded
    assert f"metric {NUM_SHOWN - 1}<" in shown
    assert f"metric {NUM_SHOWN}<" not in shown
    assert all(f"metric {number}<" in folded for number in range(NUM_SHOWN, len(rows)))
    short = render(replace(full_content(), scores=[table(*rows[:-1])]))
    assert "more metrics" not in short


def test_the_page_of_several_rounds_folds_long_tables_too() -> None:
    rows = [comparison(f"metric {number}", 1.0, 0.5) for number in range(NUM_SHOWN + 3)]
    scores = RoundScores(title="pope", main="metric 0", rounds=[rows, rows])
    content = RoundsContent(title="t", summary=[], rounds=[], scores=[scores], command="c", versions={}, drawn_from="d")
    shown, _, folded = rounds_page.render(content).partition('<details class="more">')
    assert "3 more metrics" in folded
    assert f"metric {NUM_SHOWN - 1}<" in shown
    assert f"metric {NUM_SHOWN}<" not in shown
    assert all(f"metric {number}<" in folded for number in range(NUM_SHOWN, len(rows)))


def test_pictures_are_described_in_words() -> None:
    page = Page(render(full_content("what is there")))
    texts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert "The image that is asked about: what is there" in texts
    assert all(len(text.split()) > 4 for text in texts)


def test_imported_pairs_are_not_said_to_come_from_a_view_of_the_image() -> None:
    imported = Funnel(view="imported", num_prompts=3, verdicts={"kept": 3})
    text = Page(render(replace(full_content(), funnels=[imported], origin="imported"))).text
    assert "Both answers were made elsewhere" in text
    assert "on the augmented image" not in text
    assert "on the augmented image" in Page(render(full_content())).text
