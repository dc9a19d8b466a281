"""The rows that pass from stage to stage, and their Arrow schemas.

A prompt gets one response per view. The responses of the clean view and of an augmented view get a verdict. The
rejected responses that are `kept` form one pair with the prompt's chosen response. No row disappears: a row that cannot
be used keeps its error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

STRING, IDS = pa.string(), pa.list_(pa.int32())


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question about one image."""

    prompt_id: str
    """An id that is unique within the prompt set and never changes, because random draws depend on it."""
    image_id: str
    """An id of the image, equal for all questions about it."""
    question: str
    """The cleaned text, without the image placeholder."""
    source: str
    """The data set that the prompt came from: `ocr_vqa`, `textvqa`, `toy`, ..."""
    image_path: str | None = None
    """Path relative to the prompt set's image root, or None if `image_bytes` is given."""
    image_bytes: bytes | None = None
    """The encoded image file."""
    error: str | None = None
    """Why this row cannot be used, or None. No response is generated for such a row, and its verdict is `failed`."""


PROMPT_SCHEMA = pa.schema(
    [
        ("prompt_id", STRING),
        ("image_id", STRING),
        ("question", STRING),
        ("source", STRING),
        ("image_path", STRING),
        ("image_bytes", pa.binary()),
        ("error", STRING),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a model answered to one prompt in one view."""

    prompt_id: str
    text: str = ""
    token_ids: Sequence[int] = ()
    """Token ids as the engine emitted them, with the end-of-sequence token if the model gave one."""
    finish_reason: str = "error"
    """`stop`: the model ended its answer. `length`: it was cut at the token limit. `error`: see the field `error`."""
    error: str | None = None
    """Why there is no answer, or None."""
    view: str = field(default="", compare=False)
    """The view of this answer, in an artifact whose rows have several; otherwise empty."""
    first_logps: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    """If short answers were to be scored: the `text` of each of them, and `logp`, the natural log-probability of its
    first token at the start of this response. Empty if not."""
    num_cached_tokens: int = field(default=0, compare=False)
    """Number of prompt tokens found in the engine's cache. It is only a metric: it is not stored in artifacts."""


RESPONSE_SCHEMA = pa.schema(
    [
        ("prompt_id", STRING),
        ("text", STRING),
        ("token_ids", IDS),
        ("finish_reason", STRING),
        ("error", STRING),
    ]
)

LADDER_SCHEMA = RESPONSE_SCHEMA.append(pa.field("view", STRING))
"""Responses with the view of each of them."""

FIRST_LOGPS = pa.field("first_logps", pa.list_(pa.struct([("text", STRING), ("logp", pa.float32())])))
"""The column of responses that has the log-probabilities of short answers, if they were to be scored."""

VERDICT_SCHEMA = pa.schema(
    [
        ("prompt_id", STRING),
        ("source", STRING),
        ("view", STRING),  # the view of the rejected response
        ("verdict", STRING),  # one of VERDICTS in pairs/verdicts.py
        ("error", STRING),
        ("chosen", STRING),
        ("rejected", STRING),
    ]
)

PAIR_SCHEMA = pa.schema(
    [
        *(field for field in PROMPT_SCHEMA if field.name != "error"),
        ("chosen", STRING),
        ("chosen_token_ids", IDS),
        # It has one item for each view that was kept.
        ("rejected", pa.list_(pa.struct([("view", STRING), ("text", STRING), ("token_ids", IDS)]))),
    ]
)


def table(rows: Iterable[Prompt | Response | Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of `schema`."""
    found = [row if isinstance(row, Mapping) else vars(row) for row in rows]
    return pa.Table.from_pylist(found, schema)  # `asdict` would copy each row for ten times as long as this takes
