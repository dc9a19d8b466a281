"""What a run leaves in storage and sends over the network, and its demands on the parts that reach a limit first.

In: the work, bytes of one row of each kind, and the forecast. Out: bytes by kind; and the demands on the object store,
the driver and the nodes' memory, each beside its limit if one is known.
"""

import math
from dataclasses import dataclass, fields

from seva_ray.core.checks import check_least
from seva_ray.engines.units import UNITS_PER_CALL
from seva_ray.planning.forecast import Forecast, num_drivers
from seva_ray.planning.rates import Rates
from seva_ray.planning.work import RemainingWork

DRIVER_BYTES_PER_UNIT = 11_000
"""Bytes that Ray Data keeps of each unit, measured up to 3,907 units: docs/LOG.md."""
ORDER_BYTES = 8
"""Bytes that the driver of training takes for each time that a pair is seen: 4, and 4 for the workers' copy."""
PUTS_PER_S, GETS_PER_S = 3_500, 5_500
"""Requests per second that S3 serves for one prefix. Source: Amazon S3 user guide, "Best practices design patterns"."""
NAMES_PER_LIST = 1_000
"""Number of names that one request to S3 lists."""
CHECKPOINTS = 2
"""Number of checkpoints that training keeps."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of one item of each kind. None: unknown."""

    prompt_bytes: float | None = None
    """A prompt in its shard, with its image if the shard holds images."""
    image_bytes: float | None = None
    """An image in a file of its own; 0 if the shards hold the images."""
    pixel_bytes: float | None = None
    """A prompt's pixels on their way to the engine. Views that share them are counted each."""
    response_bytes: float | None = None
    """Size of a response in its file, in bytes."""
    model_bytes: float | None = None
    """Size of the model's weights, in bytes."""
    trained_parameters: float | None = None
    """Number of trained parameters: those of the adapter, or of the language model with full training."""
    weight_bytes: int = 2
    """Bytes of one weight in training: 2 for bfloat16, 4 for float32."""

    def __post_init__(self) -> None:
        check_least(self, 0, *(item.name for item in fields(self)), finite=True)

    def checkpoint_bytes(self, full: bool) -> float | None:
        """Bytes of a checkpoint under ZeRO. It holds the trained weights twice, for transformers and for DeepSpeed, and
        12 bytes of optimiser state for each: a float32 copy and AdamW's two moments. With full training the whole model
        is written in both places."""
        if self.trained_parameters is None or (full and self.model_bytes is None):
            return None
        weights = self.model_bytes if full else self.trained_parameters * self.weight_bytes
        return 2 * (weights or 0.0) + 12 * self.trained_parameters


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that are stored or moved for one purpose; None if a size is unknown."""

    name: str
    stored: float | None = 0.0
    moved: float | None = 0.0


def parts(work: RemainingWork, rates: Rates, sizes: Sizes, full: bool, num_starts: int) -> list[Footprint]:
    """Bytes by purpose. Upper bounds if rows share images: one for several questions is read and sent once.

    `num_starts`: how often a node with engines starts; each time it fetches the model.
    """
    prompts, kept = work.num_prompts, work.kept(rates)
    left = sum(count * rows for count, rows in [*work.units, *work.tests])
    every = prompts * (1 + work.num_rejected)
    checkpoint = sizes.checkpoint_bytes(full)
    adapter = 0.0 if full else times(sizes.trained_parameters, sizes.weight_bytes)
    return [
        Footprint(name="prompts", stored=times(prompts, sizes.prompt_bytes), moved=times(left, sizes.prompt_bytes)),
        Footprint(name="images beside them", moved=times(left, sizes.image_bytes)),
        Footprint(name="pixels to engines", moved=times(left, sizes.pixel_bytes)),
        Footprint(
            name="responses",
            stored=times(sum(item.num_rows for item in work.passes), sizes.response_bytes),
            moved=0.0 if work.paired else times(every, sizes.response_bytes),
        ),
        Footprint(name="verdicts", stored=times(2 * prompts * work.num_rejected, sizes.response_bytes)),
        Footprint(
            name="pairs",
            stored=plus(times(kept, sizes.prompt_bytes), times(kept, 1 + work.num_rejected, sizes.response_bytes)),
        ),
        Footprint(name="model to engines", moved=times(num_starts, sizes.model_bytes)),
        Footprint(name="policy", stored=plus(sizes.model_bytes, adapter)),
        Footprint(name=f"{CHECKPOINTS} checkpoints", stored=times(CHECKPOINTS, checkpoint)),
    ]


def times(*factors: float | None) -> float | None:
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def plus(*terms: float | None) -> float | None:
    known = [term for term in terms if term is not None]
    return sum(known) if len(known) == len(terms) else None


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A demand on a part that reaches its limit first as a run grows; docs/SCALE.md says what is done about each."""

    name: str
    value: float | None
    unit: str
    limit: float | None = None


def demands(work: RemainingWork, rates: Rates, sizes: Sizes, full: bool, forecast: Forecast) -> list[Demand]:
    num_units = sum(item.num_left for item in work.passes)
    num_files, drivers = work.num_files(rates), num_drivers(work.units, forecast.num_engines)
    at_once = min(num_units, drivers * UNITS_PER_CALL)
    rows_per_s = times(forecast.num_engines, forecast.rows_per_s)
    held = 2 * work.units_per_engine * work.shard_size * forecast.num_engines / forecast.num_nodes
    by_path = sizes.image_bytes != 0  # an unknown size does not mean that there are no requests
    return [
        Demand(name="memory of the drivers for units", value=at_once * DRIVER_BYTES_PER_UNIT, unit="B"),
        Demand(name="driver's memory for the pairs' order", value=times(work.num_seen(rates), ORDER_BYTES), unit="B"),
        Demand(name="pixels in memory, each node", value=times(held, sizes.pixel_bytes), unit="B"),
        Demand(name="puts, one prefix", value=times(rows_per_s, 1 / work.shard_size), unit="/s", limit=PUTS_PER_S),
        Demand(name="gets of images, one prefix", value=rows_per_s if by_path else 0.0, unit="/s", limit=GETS_PER_S),
        # Prompts and verdicts, pairs and reference log-probabilities, and the responses.
        Demand(
            name="files",
            value=2 * work.num_shards + 2 * num_files + sum(item.num_units for item in work.passes),
            unit="",
        ),
        Demand(
            name="list requests at each start",
            value=sum(math.ceil(item.num_units / NAMES_PER_LIST) for item in work.passes),
            unit="",
        ),
        Demand(name="one checkpoint", value=sizes.checkpoint_bytes(full), unit="B"),
    ]
