"""The page of a run: one HTML file with everything in it, to open in any browser or to send to someone.

In: plain data (run_content.py). Out: the page as text. Texts and images come from models and data sets, so none of it
is trusted: all of it is escaped, and the page forbids itself scripts and any request.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from seva_ray.pages.figures import length_figure, training_curves
from seva_ray.pages.pair_cards import AnswerText, Picture, data_uri, sample_view
from seva_ray.pages.run_content import Flip, Funnel, Hallucinated, ReportContent, Sample, ScoreTable
from seva_ray.pages.settings import setting_rows
from seva_ray.pages.templates import forest, num_shown, page
from seva_ray.pairs.files import Origin
from seva_ray.pairs.verdicts import OPTIONAL, VERDICTS

NUM_HALLUCINATED = 10
"""Largest number of things in the list of hallucinated things."""

ORIGINS: Mapping[Origin, str] = {
    "self": "The same model answers the same question on the image (chosen) and on the augmented image (rejected).",
    "contrast": "The chosen answer is the model's answer that the image makes likelier than a noised copy does; the "
    "rejected one is its own answer on the image shown.",
    "ground truth": "The chosen answer is the data set's own; the rejected answer is the model's on the image shown.",
    "imported": "Both answers were made elsewhere, and nobody here knows what their model saw.",
}


def render(content: ReportContent) -> str:
    """The report as one self-contained HTML page."""
    curves = training_curves(content.training)
    return page(
        "run_page.html.j2",
        content=content,
        verdicts=_shown_verdicts(content.funnels),
        samples=[_sample_view(sample) for sample in content.samples],
        curves=[(curve, data_uri(curve.svg, "image/svg+xml")) for curve in curves],
        scores=[_score_view(table) for table in content.scores],
        consistency=[_score_view(table) for table in content.consistency],
        lengths=[(of, data_uri(length_figure(of.start, of.policy), "image/svg+xml")) for of in content.lengths],
        hallucinated=[(of.benchmark, _most_named(of)) for of in content.hallucinated],
        flips=[_flip_view(flip) for flip in content.flips],
        mixed=mixed_protocols(content.scores),
        settings=setting_rows(content.config),
        origin=ORIGINS[content.origin],
        smoothed=any(curve.smoothed for curve in curves),
    )


def mixed_protocols(tables: Sequence[ScoreTable]) -> list[str]:
    """A warning for every two tables that share the name of a metric and have different protocols."""
    return [
        f"{one.benchmark} and {other.benchmark} share names of metrics, but not the protocol ({one.protocol}, "
        f"{other.protocol}): their numbers cannot be compared."
        for one, other in combinations(tables, 2)
        if one.protocol != other.protocol
        and {row.metric for row in one.comparisons} & {row.metric for row in other.comparisons}
    ]


def _sample_view(sample: Sample) -> dict[str, Any]:
    return sample_view(
        prompt_id=sample.prompt_id,
        question=sample.question,
        mark=sample.verdict,
        label=sample.verdict,
        about=sample.view,
        pictures=[
            Picture(caption="image", png=sample.image_png),
            Picture(caption=sample.view, png=sample.augmented_png),
        ],
        good=AnswerText(heading="chosen", text=sample.chosen),
        bad=AnswerText(heading="rejected", text=sample.rejected),
    )


def _flip_view(flip: Flip) -> dict[str, Any]:
    start, policy = AnswerText(heading="base model", text=flip.start), AnswerText(heading="policy", text=flip.policy)
    return sample_view(
        prompt_id=flip.prompt_id,
        question=flip.question,
        mark="kept" if flip.gained else "failed",
        label="gained" if flip.gained else "lost",
        about=flip.benchmark,
        pictures=[Picture(caption="image", png=flip.image_png)],
        good=policy if flip.gained else start,
        bad=start if flip.gained else policy,
    )


def _shown_verdicts(funnels: Sequence[Funnel]) -> dict[str, str]:
    """Verdicts with their meanings. A filter's verdict is shown only if the filter dropped something."""
    given = {verdict for funnel in funnels for verdict, count in funnel.verdicts.items() if count}
    return {verdict: text for verdict, text in VERDICTS.items() if verdict not in OPTIONAL or verdict in given}


def _score_view(table: ScoreTable) -> dict[str, Any]:
    return {
        "benchmark": table.benchmark,
        "notes": table.notes,
        "unit": table.unit,
        "num_images": sorted({row.num_images for row in table.comparisons}),
        "num_policies": table.num_policies,
        "num_shown": num_shown(len(table.comparisons)),
        **forest(table.comparisons),
    }


def _most_named(of: Hallucinated) -> list[tuple[str, int, int]]:
    """(thing, start, policy), the most frequent first."""
    both = [(thing, of.start.get(thing, 0), of.policy.get(thing, 0)) for thing in {**of.start, **of.policy}]
    return sorted(both, key=lambda row: (-row[1] - row[2], row[0]))[:NUM_HALLUCINATED]
