"""Rejected answers from other prompts: a control that shows how much of a gain comes from any rejected answer.

Every kept pair of a shard keeps its prompt and its chosen answer, and gets the chosen answer of another kept pair of
that shard as its rejected one. So the prompts are the same as without the control.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from seva_ray.core.seeds import key_of

Rejected = Literal["view", "other_prompt"]
"""Whose answers are rejected: those to the same prompt in an augmented view, or to another prompt in the clean view."""


class Answered(NamedTuple):
    """A prompt and its answer in the clean view."""

    prompt_id: str
    question: str
    answer: str


def others(answered: Sequence[Answered]) -> dict[str, str]:
    """prompt_id -> the prompt_id whose answer it gets. A prompt is left out if all others have its own answer.

    The other prompt is the next one, in an order given by a hash of the ids, whose question begins with the same word,
    such as "Is" or "Describe", and whose answer differs. If there is none, it is the next one of any question.
    """
    order = sorted(answered, key=lambda item: key_of(0, "exchange", item.prompt_id))
    alike: dict[str, list[Answered]] = {}
    for item in order:
        alike.setdefault(first_word(item.question), []).append(item)
    found = next_in_circle(order)
    for group in alike.values():
        found |= next_in_circle(group)
    return found


def next_in_circle(order: Sequence[Answered]) -> dict[str, str]:
    """prompt_id -> the prompt_id of the next item, in a circle, with another answer; without those that have none."""
    found: dict[str, str] = {}
    after = None
    twice = [*order, *order]
    for item, following in zip(reversed(twice), reversed([*twice[1:], *order[:1]]), strict=True):
        after = following.prompt_id if following.answer != item.answer else after
        if after is not None:
            found[item.prompt_id] = after
    return found


def first_word(question: str) -> str:
    return (question.split() or [""])[0].casefold()
