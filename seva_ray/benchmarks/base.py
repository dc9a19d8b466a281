"""What a benchmark is: prompts, and a tally of the responses that metrics are computed from.

A tally holds one row of additive counts per image. Every metric is a function of summed counts, so a bootstrap over
images is one matrix product, and a ratio such as F1 gets an honest interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seva_ray.records import Prompt, Response


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Additive counts. `counts[i, j]` is the sum of statistic `names[j]` over the questions of image `image_ids[i]`."""

    image_ids: Sequence[str]
    names: Sequence[str]
    counts: np.ndarray
    """float64, shape (images, statistics)."""


class Benchmark(Protocol):
    """A frozen, keyword-only dataclass; one file per benchmark."""

    @property
    def name(self) -> str:
        """Names the prompt set and the scores; two benchmarks with other questions have other names."""
        ...

    @property
    def image_root(self) -> str | None:
        """What the prompts' image paths are relative to: a directory or an fsspec URI; None for bytes only."""
        ...

    def prompts(self) -> Iterator[Prompt]:
        """Every question once, in a fixed order, the questions of one image adjacent."""
        ...

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """Score the responses, by `prompt_id`. A prompt without a response, or with an error, counts as wrong."""
        ...

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Metrics from summed counts; each value has any shape (scalars or bootstrap replicates), in percent."""
        ...
