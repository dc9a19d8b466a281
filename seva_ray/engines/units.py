"""The unit of generation: one shard of prompts in one view. A CPU task encodes it, an engine answers and commits it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from seva_ray.augmentations import CONTROL_BATCH, temperature_of
from seva_ray.core.artifacts import Artifact, versions
from seva_ray.core.records import FIRST_LOGPS, LADDER_SCHEMA, RESPONSE_SCHEMA, Response, table
from seva_ray.core.seeds import key_of
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import exists, read_schema, read_table, write_table
from seva_ray.core.verification import column
from seva_ray.engines import Request
from seva_ray.engines.base import Answers
from seva_ray.engines.counts import COUNTS, counts_of
from seva_ray.engines.ladder import with_carried
from seva_ray.vlm.rows import Row

VERSIONS = b"versions"
"""The key in the metadata of a file of responses under which the versions stand that made it, as JSON."""

UNITS_PER_CALL = 100_000
"""Largest number of units in one Ray Data job, which keeps about 11 KB per unit in the driver. The next job starts new
engines."""

UNITS_PER_DRIVER = 10_000
"""Largest number of units that the job's own driver makes with Ray Data. More are made by drivers of parts."""

ENGINES_PER_DRIVER = 64
"""Largest number of engines of one driver of parts. At 10 answers a second each, in units of 256, they make 2.5 units
a second; a driver manages 50."""

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
    """For a noise ladder: the URIs of the shard's clean answers and of its answers at the step before. Prompts whose
    answers differ between the two are not asked."""
    images: str = ""
    """URI of the shard's regenerated images, if the view is made of them."""
    scored_answers: tuple[str, ...] = ()
    """Short answers whose first tokens get log-probabilities with each response."""
    retry: bool = False
    """Whether only the rows that failed before are answered."""
    model_contents: str = ""
    """What tells the model from another one that was in its directory before."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Unit":
        """The unit of these fields, which have been JSON on the way."""
        return cls(**{**fields, **{name: tuple(fields[name]) for name in ("below", "scored_answers")}})


@dataclass(frozen=True)
class Units(Sequence[Unit]):
    """Units of one artifact. They differ only in the number of their shard, and are made when they are asked for, so
    that each takes four bytes of memory."""

    like: Unit
    """A unit whose URIs are those of the directories."""
    numbers: np.ndarray
    """Numbers of their shards, int32 (units,), in ascending order."""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> "Units": ...
    def __getitem__(self, place: int | slice) -> "Unit | Units":
        if isinstance(place, slice):
            return Units(self.like, self.numbers[place])
        return self.of_shard(int(self.numbers[place]))

    def of_shard(self, number: int) -> Unit:
        name, like = shard_name(number), self.like
        return replace(
            like,
            prompts_uri=f"{like.prompts_uri}/{name}",
            responses_uri=f"{like.responses_uri}/{name}",
            below=tuple(f"{uri}/{name}" for uri in like.below),
            images=like.images and f"{like.images}/{name}",
        )

    def between(self, first: int, last: int) -> "Units":
        """The units of the shards from number `first` up to, but not including, number `last`."""
        begin, end = np.searchsorted(self.numbers, [first, last])
        return self[begin:end]

    def only(self, chosen: Sequence[bool] | np.ndarray) -> "Units":
        """The units for which `chosen` is true."""
        return Units(self.like, self.numbers[np.asarray(chosen, bool)])


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt of a unit, ready for the engine, or with the error that it had."""

    prompt_id: str
    row: Row | None = None
    """What the model reads, or None if there is an error."""
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
    scored: Mapping[str, int] = field(default_factory=dict)
    """The unit's short answers and their first tokens."""

    def requests(self) -> list[Request]:
        """The requests of the prompts without an error, in their order."""
        temperature = temperature_of(self.unit.view)
        return [
            Request(
                prompt_id=prompt.prompt_id,
                row=prompt.row,
                image_id=prompt.image_id,
                temperature=temperature,
                scored=self.scored,
                draw="" if temperature is None else self.unit.view,
            )
            for prompt in self.prompts
            if prompt.row is not None
        ]


def other_versions(uri: str) -> list[str]:
    """The packages that have another version now than when a file of responses was made, as `vllm 0.31.0 -> 0.32.0`.
    Files of older versions do not say."""
    before = json.loads((read_schema(uri).metadata or {}).get(VERSIONS, "{}"))
    now = versions()
    return [f"{name} {was} -> {now.get(name, 'none')}" for name, was in before.items() if now.get(name) != was]


def is_committed(unit: Unit) -> bool:
    """Whether an earlier attempt has committed the unit already. When the unit was found to be missing, no file was
    there, or one without a row for each prompt."""
    if unit.retry or not exists(unit.responses_uri):
        return False
    ids = column(unit.responses_uri, "prompt_id")
    return ids is not None and ids == column(unit.prompts_uri, "prompt_id")


def failed_in(unit: Unit) -> set[str]:
    """The prompts of the unit that can be used, but whose response failed."""
    columns = ["prompt_id", "error"]
    prompts, responses = (read_table(uri, columns).to_pylist() for uri in (unit.prompts_uri, unit.responses_uri))
    usable = {row["prompt_id"] for row in prompts if row["error"] is None}
    return {row["prompt_id"] for row in responses if row["error"] is not None and row["prompt_id"] in usable}


def answer(encoded: Encoded, generator: Answers) -> list[Response]:
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
    about = {VERSIONS: json.dumps(versions()), COUNTS: counts_of(responses, unit.view).text()}
    schema = LADDER_SCHEMA if unit.below else RESPONSE_SCHEMA
    if any(response.first_logps for response in responses):
        schema = schema.append(FIRST_LOGPS)
    write_table(unit.responses_uri, table(responses, schema).replace_schema_metadata(about))
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
