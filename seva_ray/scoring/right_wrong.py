"""Questions that are right or wrong: which ones a policy gained and lost, and whether that is more than chance.

In: for each question, whether the starting model and the policy are right. Out: the four counts with McNemar's exact
test. For several policies of one setting: what each gained and lost, with McNemar's test for clusters.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

from seva_ray.core.records import Response

MOST_FLIPS = 50_000
"""Largest number of flips whose p value is computed in exact integers, which takes the square of their number."""


@runtime_checkable
class Decides(Protocol):
    """A benchmark in which the answers to all or some questions are either right or wrong."""

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        """Whether each answer is right, by prompt_id. A missing or failed response is wrong. Questions that are neither
        right nor wrong are left out."""
        ...


@runtime_checkable
class AsksInParts(Protocol):
    """A benchmark in which each question consists of several prompts. Its outcomes are keyed by the first prompt_id."""

    def told(self, responses: Mapping[str, Response], prompt_id: str) -> str | None:
        """The answers to all prompts of a question as one text; None if an answer is missing."""
        ...


@runtime_checkable
class NamesObjects(Protocol):
    """A benchmark that knows the objects in its images and can find the objects that an answer names."""

    def hallucinated(self, responses: Mapping[str, Response]) -> dict[str, list[str]]:
        """The objects that each answer names but that are not in the image, each once, by prompt_id."""
        ...


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The numbers of questions that both, one or none of the models answered right."""

    right: int
    """Both are right."""
    gained: int
    """Only the policy is right."""
    lost: int
    """Only the starting model is right."""
    wrong: int
    """Neither is right."""
    p_value: float
    """The two-sided p value of McNemar's exact test. The test treats questions as independent, but questions about one
    image rarely are."""

    @classmethod
    def of(cls, outcomes: Mapping[tuple[bool, bool], int]) -> "Flips":
        """`outcomes`: the number of questions for each (whether the start is right, whether the policy is)."""
        right, gained, lost, wrong = (
            outcomes.get(pair, 0) for pair in ((True, True), (False, True), (True, False), (False, False))
        )
        return cls(right=right, gained=gained, lost=lost, wrong=wrong, p_value=mcnemar(gained, lost))


def flips_of(start: Mapping[str, bool], policy: Mapping[str, bool]) -> Flips:
    """Count the flips. Raises: ValueError if the outcomes are of different questions."""
    return Flips.of(outcomes_of(start, policy))


def outcomes_of(start: Mapping[str, bool], policy: Mapping[str, bool]) -> Counter[tuple[bool, bool]]:
    """The number of questions for each outcome of both. Raises: ValueError if they are of different questions."""
    if start.keys() != policy.keys():
        raise ValueError("outcomes of different questions")
    return Counter((was_right, policy[prompt_id]) for prompt_id, was_right in start.items())


def mcnemar(gained: int, lost: int) -> float:
    """The probability of a split at least as uneven if each flip is a gain or a loss with chance 1/2; 1 without flips.

    p = min(1, 2 * sum_{i <= min(gained, lost)} C(n, i) / 2^n), n = gained + lost, in exact integers up to MOST_FLIPS.
    Source: McNemar, Psychometrika 12 (1947), with the binomial in place of its chi-squared approximation.
    """
    total, fewer = gained + lost, min(gained, lost)
    if total > MOST_FLIPS:
        return min(1.0, 2 * lower_tail(total, fewer))
    tail, term = 0, 1
    for i in range(fewer + 1):
        tail += term
        term = term * (total - i) // (i + 1)
    return min(1.0, 2 * tail / 2**total)


def lower_tail(total: int, most: int) -> float:
    """sum_{i <= most} C(total, i) / 2^total, in floating point: the largest term by logarithms of the gamma function
    and the others by their ratios, until they no longer count."""
    logs = math.lgamma(total + 1) - math.lgamma(most + 1) - math.lgamma(total - most + 1) - total * math.log(2)
    term = tail = math.exp(logs)
    for i in range(most, 0, -1):
        term *= i / (total - i + 1)
        tail += term
        if term < tail * 1e-17:
            break
    return tail


@dataclass(frozen=True, kw_only=True)
class RepeatedFlips:
    """Flips of several policies of one setting, each against its starting model, on the same questions."""

    num_questions: int
    num_images: int
    gained: Sequence[int]
    """Number of questions that each policy gained."""
    lost: Sequence[int]
    """Number of questions that each policy lost."""
    p_value: float
    """The p value of McNemar's test for clusters. All results on the questions about one image count as one piece of
    evidence. It covers the choice of images, but not the choice of policies."""


def repeated_flips(
    pairs: Sequence[tuple[Mapping[str, bool], Mapping[str, bool]]], image_of: Mapping[str, str]
) -> RepeatedFlips:
    """Count the flips of several policies. `pairs` holds the outcomes of start and policy, and `image_of` the image_id
    by prompt_id. Raises: ValueError if the outcomes are of different questions."""
    flips = [flips_of(start, policy) for start, policy in pairs]
    if any(start.keys() != pairs[0][0].keys() for start, _ in pairs):
        raise ValueError("outcomes of different questions")
    of_images: dict[str, list[int]] = defaultdict(list)
    for start, policy in pairs:
        for prompt_id, was_right in start.items():
            of_images[image_of[prompt_id]].append(policy[prompt_id] - was_right)
    return RepeatedFlips(
        num_questions=len(pairs[0][0]),
        num_images=len(of_images),
        gained=[of_policy.gained for of_policy in flips],
        lost=[of_policy.lost for of_policy in flips],
        p_value=clustered_mcnemar(of_images.values()),
    )


def clustered_mcnemar(clusters: Iterable[Sequence[int]]) -> float:
    """McNemar's test if outcomes within a cluster depend on each other. An outcome is +1 (gained), -1 (lost) or 0.

    d_k = mean of cluster k; chi^2 = (sum d_k)^2 / sum d_k^2 with one degree of freedom. The p value is 1 without flips.
    With clusters of one it is McNemar's chi^2 without correction. It is an approximation for many clusters, which all
    have the same weight.
    Source: Durkalski et al., Statistics in Medicine 22 (2003), doi 10.1002/sim.1438.
    """
    means = [sum(outcomes) / len(outcomes) for outcomes in clusters]
    squares = math.fsum(mean * mean for mean in means)
    return math.erfc(math.sqrt(math.fsum(means) ** 2 / squares / 2)) if squares else 1.0


def agreement(answers: Iterable[Sequence[Hashable]]) -> float:
    """The share of equal pairs among the repeats of one item, averaged over all items; nan if there is no pair."""
    shares = []
    for repeats in answers:
        if pairs := list(combinations(repeats, 2)):
            shares.append(sum(one == other for one, other in pairs) / len(pairs))
    return sum(shares) / len(shares) if shares else float("nan")
