"""The unit of generation: one shard of prompts in one view. A CPU task encodes it, an engine answers and commits it.

An `Encoded` unit travels between the two: a header and the pixels. Questions about one image share its pixels, so each
image is read, preprocessed and sent once. Only an augmented view is drawn anew for every prompt.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seva_ray.augmentations import CONTROL_BATCH, parse_view, temperature_of
from seva_ray.core.artifacts import Artifact, versions
from seva_ray.core.errors import UserError
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.records import RESPONSE_SCHEMA, Response, table
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import read_schema, read_table, write_table
from seva_ray.engines import Generator, Request
from seva_ray.vlm.views import Viewer

VERSIONS = b"versions"
"""The key in the metadata of a file of responses under which the versions stand that made it, as JSON."""

UNITS_PER_CALL = 100_000
"""Largest number of units in one Ray Data job, which keeps about 11 KB per unit in the driver. The next job starts new
engines."""

PAIRS_PER_UNIT = 64
"""Approximate number of pairs that the reference scores in one unit. Shards with few pairs are scored together, but
each still gets its own file."""

CONTROL_BATCH_SIZE = 8
"""Number of requests that the engine gets at once in the view `control-batch`."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One shard in one view, for one model."""

    model: str
    """Name of the model."""
    model_directory: str
    prompts_uri: str
    responses_uri: str
    view: str
    system: str
    """The system text before each question (empty: none)."""
    image_root: str | None
    num_rows: int
    """Largest number of rows in the shard. The memory requested for encoding depends on it."""
    artifact: str = ""
    """The artifact of the responses: its name, URI and recipe as JSON. The first committed unit begins the artifact.
    It is empty if the artifact has begun already."""
    retry: bool = False
    """Whether only the rows that failed before are answered."""


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt of a unit, ready for the engine, or with the error that it had."""

    prompt_id: str
    prompt_ids: Sequence[int] = ()
    image: int = -1
    """Index of its image in the unit's pixels; -1 if there is an error."""
    pixels_id: str = ""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A unit that is ready for an engine."""

    unit: Unit
    rows: Sequence[EncodedPrompt]
    pixels: np.ndarray
    """Normalised pixels, float32 (images, C, H, W)."""
    image_token_id: int
    """The token that marks the image in a prompt. An answer must not contain it."""

    def requests(self) -> list[Request]:
        """The requests of the rows without an error, in their order."""
        temperature = temperature_of(self.unit.view)
        return [
            Request(
                prompt_id=row.prompt_id,
                prompt_ids=row.prompt_ids,
                pixels=self.pixels[row.image],
                pixels_id=row.pixels_id,
                temperature=temperature,
                draw="" if temperature is None else self.unit.view,
            )
            for row in self.rows
            if row.error is None
        ]

    def header(self) -> str:
        """Everything except the pixels, as JSON."""
        rows = [asdict(row) for row in self.rows]
        return json.dumps({"unit": asdict(self.unit), "rows": rows, "image_token_id": self.image_token_id})

    @classmethod
    def of(cls, header: str, pixels: np.ndarray) -> "Encoded":
        data = json.loads(header)
        rows = [EncodedPrompt(**row) for row in data["rows"]]
        return cls(unit=Unit(**data["unit"]), rows=rows, pixels=pixels, image_token_id=data["image_token_id"])


def encode(unit: Unit, viewer: Viewer) -> Encoded:
    """Read a shard and prepare its rows. A row that fails keeps its error and does not affect the others."""
    rows: list[EncodedPrompt] = []
    images: list[np.ndarray] = []
    seen: dict[tuple[Any, ...], tuple[int, str]] = {}
    retried = failed_in(unit) if unit.retry else None
    for row in read_table(unit.prompts_uri).to_pylist():
        if retried is not None and row["prompt_id"] not in retried:
            continue
        try:
            rows.append(encode_row(row, unit.view, viewer, images, seen))
        except StorageUnavailable:  # this is no row's fault
            raise
        except UserError as error:
            rows.append(EncodedPrompt(prompt_id=row["prompt_id"], error=str(error)))
    blank = np.zeros((1, 1, 1, 1), np.float32)
    pixels = np.stack(images) if images else blank
    return Encoded(unit=unit, rows=rows, pixels=pixels, image_token_id=viewer.encoder.image_token_id)


def other_versions(uri: str) -> list[str]:
    """The packages that have another version now than when a file of responses was made, as `vllm 0.31.0 -> 0.32.0`.
    Files of older versions do not say."""
    before = json.loads((read_schema(uri).metadata or {}).get(VERSIONS, "{}"))
    now = versions()
    return [f"{name} {was} -> {now.get(name, 'none')}" for name, was in before.items() if now.get(name) != was]


def failed_in(unit: Unit) -> set[str]:
    """The prompts of the unit that can be used, but whose response failed."""
    columns = ["prompt_id", "error"]
    prompts, responses = (read_table(uri, columns).to_pylist() for uri in (unit.prompts_uri, unit.responses_uri))
    usable = {row["prompt_id"] for row in prompts if row["error"] is None}
    return {row["prompt_id"] for row in responses if row["error"] is not None and row["prompt_id"] in usable}


def encode_row(
    row: Mapping[str, Any],
    view: str,
    viewer: Viewer,
    images: list[np.ndarray],
    seen: dict[tuple[Any, ...], tuple[int, str]],
) -> EncodedPrompt:
    """The row's tokens and the index of its pixels. New pixels are added to `images`."""
    if row["error"]:
        return EncodedPrompt(prompt_id=row["prompt_id"], error=row["error"])
    prompt_ids = viewer.encoder.prompt_ids(row["question"])
    drawn_from = (row["image_path"], row["image_bytes"], parse_view(view) and row["prompt_id"])
    if drawn_from not in seen:
        pixels = viewer.pixels(row, view)
        seen[drawn_from] = len(images), hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
        images.append(pixels)
    image, pixels_id = seen[drawn_from]
    return EncodedPrompt(prompt_id=row["prompt_id"], prompt_ids=prompt_ids, image=image, pixels_id=pixels_id)


def answer(encoded: Encoded, generator: Generator) -> list[Response]:
    """Generate a unit's responses and commit them in one step.

    Raises: FingerprintMismatch if another job has taken the artifact's name in the meantime.
    """
    answered = {
        response.prompt_id: checked(response, encoded.image_token_id)
        for batch in batches(encoded.requests(), encoded.unit.view)
        for response in generator.generate(batch)
    }
    responses = [
        answered.get(row.prompt_id) or Response(prompt_id=row.prompt_id, error=row.error) for row in encoded.rows
    ]
    if encoded.unit.retry:
        again = {response.prompt_id: response for response in responses}
        before = (Response(**row) for row in read_table(encoded.unit.responses_uri).to_pylist())
        responses = [again.get(response.prompt_id, response) for response in before]
    if encoded.unit.artifact:
        Artifact(**json.loads(encoded.unit.artifact)).begin()
    made_by = {VERSIONS: json.dumps(versions())}
    write_table(encoded.unit.responses_uri, table(responses, RESPONSE_SCHEMA).replace_schema_metadata(made_by))
    return responses


def checked(response: Response, image_token_id: int) -> Response:
    """The response, or an error if it contains the image placeholder: an almost untrained model may emit it, but the
    forward pass of training cannot read it without an image."""
    if image_token_id not in response.token_ids:
        return response
    return Response(prompt_id=response.prompt_id, error="the answer contains the image placeholder")


def batches(requests: Sequence[Request], view: str) -> Iterator[Sequence[Request]]:
    """All requests at once. In the view `control-batch`, a few at a time and in another order, so that different rows
    are computed together."""
    if view != CONTROL_BATCH:
        yield requests
        return
    shuffled = sorted(requests, key=lambda request: key_of(0, CONTROL_BATCH, request.prompt_id))
    for start in range(0, len(shuffled), CONTROL_BATCH_SIZE):
        yield shuffled[start : start + CONTROL_BATCH_SIZE]
