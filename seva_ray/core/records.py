"""The rows that cross stages, and their Arrow schemas.

A prompt becomes one response per view; the responses of the clean view and of an augmented view become a verdict. The
rejected responses that are `kept` become one pair with the prompt's chosen response. Nothing disappears: a row that
cannot be used carries its error on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

STRING, IDS = pa.string(), pa.list_(pa.int32())


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question about one image."""

    prompt_id: str
    """Unique within its prompt set, and stable: randomness is keyed by it."""
    image_id: str
    """Equal for all questions about one image."""
    question: str
    """Cleaned text without the image placeholder."""
    source: str
    """Where it came from: `ocr_vqa`, `textvqa`, `toy`, ..."""
    image_path: str | None = None
    """Path relative to the prompt set's image root; or None where `image_bytes` is given."""
    image_bytes: bytes | None = None
    """The encoded image file."""
    error: str | None = None
    """Why this row cannot be used. Such a row is never generated for and ends as a `failed` verdict."""


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
    """As the engine emitted them, the end-of-sequence token included where the model gave one."""
    finish_reason: str = "error"
    """`stop`: the model ended its answer. `length`: cut at the token limit. `error`: see `error`."""
    error: str | None = None
    num_cached_tokens: int = field(default=0, compare=False)
    """Of the prompt, found in the engine's cache. To be watched, not kept: 0 in what was read from an artifact."""


RESPONSE_SCHEMA = pa.schema(
    [
        ("prompt_id", STRING),
        ("text", STRING),
        ("token_ids", IDS),
        ("finish_reason", STRING),
        ("error", STRING),
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        ("prompt_id", STRING),
        ("source", STRING),
        ("view", STRING),  # of the rejected response
        ("verdict", STRING),  # one of verdicts.VERDICTS
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
        # One for each view that was kept.
        ("rejected", pa.list_(pa.struct([("view", STRING), ("text", STRING), ("token_ids", IDS)]))),
    ]
)


def table(rows: Iterable[Prompt | Response | Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of `schema`."""
    return pa.Table.from_pylist([dict(row) if isinstance(row, Mapping) else asdict(row) for row in rows], schema)
