"""The tallies of two models as they come, part by part -> the metrics of both, with their intervals.

Up to MOST_IMAGES images the counts of each are kept, and the metrics are those of `paired_bootstrap`. Of more images
only the different rows of counts are kept, so that memory hardly grows with the number of questions.
"""

from array import array
from collections.abc import Sequence

import numpy as np

from seva_ray.benchmarks.base import Tally
from seva_ray.scoring.intervals import (
    MOST_IMAGES,
    Comparison,
    Distinct,
    Metrics,
    bootstrap_of_distinct,
    check_pair,
    paired_bootstrap,
)


class PairedTallies:
    """Takes the tallies of both models on one part of the images after the other."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self.num_images = 0
        self.kept: list[tuple[Tally, Tally]] = []
        """All tallies, up to MOST_IMAGES images."""
        self.distinct: Distinct | None = None
        """The rows of counts of all images, if there are more."""
        self.seen = array("q")
        """A hash of each image_id."""

    def add(self, start: Tally, policy: Tally) -> None:
        """Raises: ValueError as in `check_pair`, or if the parts have different counts."""
        check_pair(start, policy)
        if self.seen and list(start.names) != list(self.names):
            raise ValueError("the tallies have different counts")
        self.names = start.names
        self.num_images += len(start.image_ids)
        self.seen.extend(map(hash, start.image_ids))
        self.kept.append((start, policy))
        if self.num_images > MOST_IMAGES:
            self.distinct = self.distinct or Distinct()
            for pair in self.kept:
                self.distinct.add(np.concatenate([tally.counts for tally in pair], axis=1))
            self.kept.clear()

    def comparisons(self, metrics: Metrics, *, num_resamples: int, seed: int) -> list[Comparison]:
        """Raises: ValueError if the questions about one image were in two parts."""
        hashes = np.sort(np.frombuffer(self.seen, np.int64))
        if (hashes[1:] == hashes[:-1]).any():
            raise ValueError("an image appears twice in a tally; all counts of one image belong in one row")
        given = {"num_resamples": num_resamples, "seed": seed}
        if self.distinct:
            return bootstrap_of_distinct(self.names, self.distinct, metrics, **given)
        start, policy = (joined(tallies) for tallies in zip(*self.kept, strict=True))
        return paired_bootstrap(start, policy, metrics, **given)


def joined(tallies: Sequence[Tally]) -> Tally:
    """Tallies of different images as one."""
    ids = [image_id for tally in tallies for image_id in tally.image_ids]
    counts = np.concatenate([tally.counts for tally in tallies])
    return Tally(image_ids=ids, names=tallies[0].names, counts=counts)
