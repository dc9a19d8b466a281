"""The verdict on a prompt's two responses. These are pure functions, so a changed rule needs no GPU."""

from seva_ray.core.records import Response
from seva_ray.pairs.filters import FILTERS, OFF, Filters

VERDICTS = {
    "kept": "a training pair",
    "equal": "both answers are the same",
    "empty": "one answer has no text",
    "truncated": "an answer was cut at the token limit",
    **{name: meaning for name, (_, meaning) in FILTERS.items()},
    "surplus": "a good pair that a quota, a selection or an earlier round makes needless",
    "failed": "the image or the engine gave an error",
}
"""Every prompt gets exactly one of these verdicts, here with its meaning. From `equal` to `surplus` they are in the
order of the rules."""

OPTIONAL = (*FILTERS, "surplus")
"""Verdicts that are given only if a filter or quota is on."""


def verdict_of(
    chosen: Response, rejected: Response, keep_truncated: bool, filters: Filters = OFF, keep_empty: bool = False
) -> tuple[str, str | None]:
    """The verdict, and the error if it is `failed`. A pair that is kept here may still become `surplus` by a quota.

    The cleaned texts are compared, so no pair with chosen == rejected is kept.
    Source: SeVa (arXiv 2404.10501) section 3.2, "filter out equal answers".
    """
    error = chosen.error or rejected.error
    if error:
        return "failed", error
    if any(response.text and not response.token_ids for response in (chosen, rejected)):
        return "failed", "the engine returned an answer without its token ids, which training needs"
    if chosen.text == rejected.text:
        return "equal", None
    if not (chosen.text and rejected.text) and not (keep_empty and chosen.token_ids and rejected.token_ids):
        return "empty", None
    if not keep_truncated and "length" in (chosen.finish_reason, rejected.finish_reason):
        return "truncated", None
    return filters.dropped_by(chosen.text, rejected.text) or "kept", None
