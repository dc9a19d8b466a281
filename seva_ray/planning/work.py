"""The work of a run: prompts, passes over them, pairs and steps, and how much of it is left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seva_ray.planning.rates import Rates
from seva_ray.planning.simulation import Units


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The base model's responses to one set of prompts in one view."""

    name: str
    num_rows: int
    num_units: int
    left: Units
    """The units whose responses do not exist yet."""

    @property
    def num_left(self) -> int:
        return sum(count for count, _ in self.left)


@dataclass(frozen=True, kw_only=True)
class RemainingWork:
    """What a run consists of, and what of it is left."""

    num_prompts: int
    shard_size: int
    num_rejected: int
    """Number of rejected views in each pair."""
    passes: Sequence[Pass]
    tests: Units
    """The units of the benchmarks, which the policy answers."""
    gpus_per_engine: int
    units_per_engine: int
    num_workers: int
    """Number of training workers."""
    global_batch_size: int
    num_repeats: int
    most_pairs: int | None
    """Largest number of pairs to train on; None for all."""
    num_kept: int | None = None
    """Number of pairs, if they exist already."""
    num_images: int = 0
    """Number of images that a diffusion model still has to make."""
    source_files: int = 1
    """Number of files of the source that tasks read at the same time. With 1, the driver reads the source alone."""
    num_references: int = 1
    """How often each pair is still scored by the reference: a loss with image terms reads a second image."""
    prepared: bool = False
    paired: bool = False
    scored: bool = False
    trained: bool = False

    @property
    def num_shards(self) -> int:
        return math.ceil(self.num_prompts / self.shard_size)

    @property
    def units(self) -> list[tuple[int, int]]:
        """All units that the base model still has to answer."""
        return [run for item in self.passes for run in item.left]

    def kept(self, rates: Rates) -> int | None:
        if self.num_kept is not None or rates.kept_share is None:
            return self.num_kept
        return round(rates.kept_share * self.num_prompts)

    def num_files(self, rates: Rates) -> int:
        """Largest possible number of shards with pairs."""
        kept = self.kept(rates)
        return self.num_shards if kept is None else min(kept, self.num_shards)

    def num_seen(self, rates: Rates) -> int | None:
        """How many pairs training sees, each as often as it comes."""
        if (kept := self.kept(rates)) is None:
            return None
        return min(kept, self.most_pairs or kept) * self.num_repeats

    def num_steps(self, rates: Rates) -> int | None:
        seen = self.num_seen(rates)
        return None if seen is None else math.ceil(seen / self.global_batch_size)


def units_of(num_rows: int, shard_size: int) -> list[tuple[int, int]]:
    """The units of one view: full shards, and the last one."""
    full, rest = divmod(num_rows, shard_size)
    return [run for run in ((full, shard_size), (1, rest)) if all(run)]


def num_rows(units: Units) -> int:
    return sum(count * rows for count, rows in units)
