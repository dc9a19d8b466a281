"""Yes/no questions: what an answer says, its additive counts, and the POPE metrics of summed counts.

In: the text of an answer and its label. Out: counts per category, which a tally adds up, and metrics in percent.
"""

from collections.abc import Mapping

import numpy as np

from seva_ray.benchmarks.base import percent

CATEGORIES = ("random", "popular", "adversarial")
"""How the objects that are not in the image were chosen."""
OUTCOMES = ("tp", "fp", "tn", "fn")
"""True and false positives and negatives; "yes" is positive."""


def says_yes(text: str) -> bool:
    """Whether an answer means yes: it does, unless a word before the first period is No, no or not.

    Source: the answer rule of SeVa's POPE evaluation. By that rule an empty answer, NO and don't mean yes.
    """
    words = text.strip().split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"}.intersection(words)


def outcome_names() -> list[str]:
    """The names of all counts, in the order of a tally's columns."""
    return [f"pope_{category}_{outcome}" for category in CATEGORIES for outcome in OUTCOMES]


def outcome_counts(category: str, label_yes: bool, said_yes: bool) -> dict[str, float]:
    """The counts of one answer: 1 for its outcome, and 0 for every other name.

    Raises: ValueError for a category that is not in CATEGORIES.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is not one of {', '.join(CATEGORIES)}")
    outcome = ("tp" if said_yes else "fn") if label_yes else ("fp" if said_yes else "tn")
    return {name: float(name == f"pope_{category}_{outcome}") for name in outcome_names()}


def pope_metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Accuracy, precision, recall, F1 and yes-ratio in percent, per category and overall; nan if undefined.

    Overall is the mean over the categories that have questions, as POPE is published: 85.9 for LLaVA-1.5-7B is the
    mean of its F1 of 87.3, 86.1 and 84.2. Other names in `sums` are ignored.
    Shapes: all sums have one shape, which may be any; all metrics have it too.
    """
    tp, fp, tn, fn = (np.stack([sums[f"pope_{category}_{outcome}"] for category in CATEGORIES]) for outcome in OUTCOMES)
    asked = tp + fp + tn + fn
    by_metric = {
        "accuracy": percent(tp + tn, asked),
        "precision": percent(tp, tp + fp),
        "recall": percent(tp, tp + fn),
        "F1": percent(2 * tp, 2 * tp + fp + fn),
        "yes-ratio": percent(tp + fp, asked),
    }
    named: dict[str, np.ndarray] = {}
    for metric, values in by_metric.items():
        named |= {f"POPE {category} {metric}": value for category, value in zip(CATEGORIES, values, strict=True)}
        total = np.where(asked > 0, values, 0.0).sum(axis=0)
        named[f"POPE {metric}"] = percent(total / 100, (asked > 0).sum(axis=0))
    return named
