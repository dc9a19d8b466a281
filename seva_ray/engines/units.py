"""The unit of generation: one shard of prompts in one view. A CPU task encodes it, an engine answers and commits it.

An `Encoded` unit travels between the two: a header and the arrays of its rows. Questions about one image share its
features, so each image is read, preprocessed and sent once. Only an augmented view is drawn anew for every prompt.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from seva_ray.augmentations import CONTROL_BATCH, temperature_of
from seva_ray.core.artifacts import Artifact, versions
from seva_ray.core.errors import InputError, UserError
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.records import LADDER_SCHEMA, RESPONSE_SCHEMA, Response, table
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import read_schema, read_table, write_table
from seva_ray.engines import Generator, Request
from seva_ray.engines.buffers import packed, unpacked
from seva_ray.engines.ladder import carried, with_carried
from seva_ray.vlm.rows import PIXELS, Row
from seva_ray.vlm.views import Viewer

VERSIONS = b"versions"
"""The key in the metadata of a file of responses under which the versions stand that made it, as JSON."""

UNITS_PER_CALL = 100_000
"""Largest number of units in one Ray Data job, which keeps about 11 KB per unit in the driver. The next job starts new
engines."""

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
    below: tuple[str, ...] = ()
    """Of a noise ladder: the URIs of the shard's clean answers and of its answers at the step before. Prompts whose
    answers differ between the two are not asked."""
    images: str = ""
    """URI of the shard's regenerated images, if the view is made of them."""
    retry: bool = False
    """Whether only the rows that failed before are answered."""


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt of a unit, ready for the engine, or with the error that it had."""

    prompt_id: str
    row: Row | None = None
    """None if there is an error."""
    image_id: str = ""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A unit that is ready for an engine."""

    unit: Unit
    prompts: Sequence[EncodedPrompt]
    """Prompts of one `image_id` share their features."""
    image_token_id: int
    """The token that marks the image in a prompt. An answer must not contain it."""

    def requests(self) -> list[Request]:
        """The requests of the prompts without an error, in their order."""
        temperature = temperature_of(self.unit.view)
        return [
            Request(
                prompt_id=prompt.prompt_id,
                row=prompt.row,
                image_id=prompt.image_id,
                temperature=temperature,
                draw="" if temperature is None else self.unit.view,
            )
            for prompt in self.prompts
            if prompt.row is not None
        ]

    @property
    def images(self) -> dict[str, Mapping[str, np.ndarray]]:
        """The features of each image, by its `image_id`."""
        return {prompt.image_id: prompt.row.features for prompt in self.prompts if prompt.row is not None}

    @property
    def num_pixel_bytes(self) -> int:
        """Bytes of the images' features, each image counted once."""
        return sum(values.nbytes for features in self.images.values() for values in features.values())

    def packed(self) -> tuple[str, np.ndarray]:
        """The unit as it travels: a header in JSON, and its arrays in one flat buffer, uint8 (bytes,)."""
        rows = {prompt.prompt_id: prompt.row for prompt in self.prompts if prompt.row is not None}
        texts = {name: {IDS: np.asarray(row.ids), **row.tokens} for name, row in rows.items()}
        images = self.images
        places, buffer = packed([*texts.values(), *images.values()])
        header = {
            "unit": asdict(self.unit),
            "image_token_id": self.image_token_id,
            "prompts": [(prompt.prompt_id, prompt.image_id, prompt.error) for prompt in self.prompts],
            "rows": {name: (row.num_image_tokens, row.size) for name, row in rows.items()},
            "images": list(images),
            "places": places,
        }
        return json.dumps(header), buffer

    @classmethod
    def of(cls, header: str, buffer: np.ndarray) -> "Encoded":
        """The unit of which `packed` gave the header and the buffer. Its arrays are parts of the buffer."""
        data = json.loads(header)
        arrays = unpacked(data["places"], buffer)
        texts = dict(zip(data["rows"], arrays, strict=False))
        images = dict(zip(data["images"], arrays[len(texts) :], strict=True))

        def row_of(prompt_id: str, image_id: str) -> Row | None:
            if prompt_id not in texts:
                return None
            number, (height, width) = data["rows"][prompt_id]
            ids = texts[prompt_id].pop(IDS).tolist()
            tokens, features = texts[prompt_id], images[image_id]
            return Row(ids=ids, num_image_tokens=number, tokens=tokens, features=features, size=(height, width))

        prompts = [
            EncodedPrompt(prompt_id=prompt_id, row=row_of(prompt_id, image_id), image_id=image_id, error=error)
            for prompt_id, image_id, error in data["prompts"]
        ]
        return cls(unit=Unit(**data["unit"]), prompts=prompts, image_token_id=data["image_token_id"])


IDS = "input_ids"
"""The name of a prompt's token ids among the arrays that travel."""


def encode(unit: Unit, viewer: Viewer) -> Encoded:
    """Read a shard and prepare its prompts. A prompt that fails keeps its error and does not affect the others."""
    rows = read_table(unit.prompts_uri).to_pylist()
    if unit.images:
        viewer = replace(viewer, made=images_in(unit.images))
    if unit.below:
        flipped = carried(unit.below)
        rows = [row for row in rows if row["prompt_id"] not in flipped]
    if unit.retry:
        retried = failed_in(unit)
        rows = [row for row in rows if row["prompt_id"] in retried]
    of_images: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        alone = row["error"] and row["prompt_id"]
        of_images.setdefault((row["image_path"], row["image_bytes"], alone), []).append(row)
    made = [prompt for of_image in of_images.values() for prompt in encode_image(of_image, unit.view, viewer)]
    found = {prompt.prompt_id: prompt for prompt in made}
    prompts = [found[row["prompt_id"]] for row in rows]
    return Encoded(unit=unit, prompts=prompts, image_token_id=viewer.encoder.image_token_id)


def images_in(uri: str) -> Callable[[str, str], bytes]:
    """Finds the regenerated images of one shard by prompt_id; see Viewer.made."""
    images = {row["prompt_id"]: row for row in read_table(uri).to_pylist()}

    def find(prompt_id: str, view: str) -> bytes:
        row = images[prompt_id]
        if row["error"] is not None:
            raise InputError(row["error"])
        return row["image"]

    return find


def encode_image(rows: Sequence[Mapping[str, Any]], view: str, viewer: Viewer) -> list[EncodedPrompt]:
    """Prepare prompts about one image, which is read and preprocessed once."""
    try:
        if rows[0]["error"]:
            raise InputError(rows[0]["error"])
        image = viewer.image(rows[0])
    except StorageUnavailable:  # this is no row's fault
        raise
    except UserError as error:
        return [EncodedPrompt(prompt_id=row["prompt_id"], error=str(error)) for row in rows]
    prompts = []
    pixels, image_id = None, ""
    for row in rows:
        try:
            made = viewer.row(row, view, image)
        except UserError as error:
            prompts.append(EncodedPrompt(prompt_id=row["prompt_id"], error=str(error)))
            continue
        if made.features[PIXELS] is not pixels:
            pixels, image_id = made.features[PIXELS], digest(made.features)
        prompts.append(EncodedPrompt(prompt_id=row["prompt_id"], row=made, image_id=image_id))
    return prompts


def digest(features: Mapping[str, np.ndarray]) -> str:
    """A digest of an image's features."""
    found = hashlib.blake2b(digest_size=16)
    for name, values in sorted(features.items()):
        found.update(f"{name} {values.dtype} {values.shape} ".encode())
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()


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
        answered.get(prompt.prompt_id) or Response(prompt_id=prompt.prompt_id, error=prompt.error)
        for prompt in encoded.prompts
    ]
    return commit(encoded.unit, responses)


def commit(unit: Unit, responses: Sequence[Response]) -> list[Response]:
    """Write the file of a unit. Of a ladder, `responses` are those that were asked, and the others are carried on."""
    if unit.below:
        responses = with_carried(responses, unit.view, unit.below)
    if unit.retry:
        again = {response.prompt_id: response for response in responses}
        before = (Response(**row) for row in read_table(unit.responses_uri).to_pylist())
        responses = [again.get(response.prompt_id, response) for response in before]
    if unit.artifact:
        Artifact(**json.loads(unit.artifact)).begin()
    made_by = {VERSIONS: json.dumps(versions())}
    schema = LADDER_SCHEMA if unit.below else RESPONSE_SCHEMA
    write_table(unit.responses_uri, table(responses, schema).replace_schema_metadata(made_by))
    return list(responses)


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
