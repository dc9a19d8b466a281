"""The answers of a noise ladder: a prompt whose answer has flipped at a weaker step is not asked again.

In: the answers to the clean images and the answers of the step before, for one shard. Out: the rows that are carried
on, as they are. So a row of a ladder has the answer at the first step at which it differs from the clean one, and the
field `view` names that step; if it never differs, it is the answer at the last step.
"""

from collections.abc import Sequence
from dataclasses import replace

from seva_ray.augmentations.ladder import plain_view
from seva_ray.core.records import Response
from seva_ray.core.storage import read_table


def read(uri: str) -> list[Response]:
    return [Response(**row) for row in read_table(uri).to_pylist()]


Below = Sequence[str]
"""The URIs of a shard's clean answers, and of its answers at the step before."""


def carried(below: Below) -> dict[str, Response]:
    """The answers that are carried on, by prompt_id: those that have flipped, and those that failed."""
    clean_uri, below_uri = below
    clean = {response.prompt_id: response for response in read(clean_uri)}
    view = plain_view(below_uri.split("/")[-2])
    found = {}
    for response in read(below_uri):
        of_clean = clean[response.prompt_id]
        error = of_clean.error or response.error
        if error is not None:
            found[response.prompt_id] = Response(prompt_id=response.prompt_id, error=error, view=view)
        elif response.text != of_clean.text:
            found[response.prompt_id] = replace(response, view=response.view or view)
    return found


def not_carried(rows: Sequence[Response], below: Below) -> list[Response]:
    """The answers of those prompts that a ladder asks at this step."""
    found = carried(below)
    return [row for row in rows if row.prompt_id not in found]


def with_carried(asked: Sequence[Response], view: str, below: Below) -> list[Response]:
    """The rows of a step, in the order of the step before: those that were asked in `view`, and those carried on."""
    found = carried(below) | {row.prompt_id: replace(row, view=plain_view(view)) for row in asked}
    return [found[row.prompt_id] for row in read(below[1]) if row.prompt_id in found]
