"""A line on the terminal for every new try of a group of training workers, and an end to tries that cannot help.

Ray Train starts a group again after any failure. That helps if a machine was lost. If the error follows from the job
itself, each try costs minutes of loading and ends the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seva_ray.core.errors import line_of
from seva_ray.stages.training.failures import is_final, is_lost


@dataclass(kw_only=True)
class Retries:
    """Its `notice` is for `seva_ray.private.ray.restart_callback`. It runs in Ray Train's controller."""

    relay: Any
    """The LogRelay that gets a line for every new try."""
    limit: int
    """Largest number of new tries."""
    number: int = field(default=0, init=False)

    def notice(self, error: BaseException, failures: Mapping[int, BaseException]) -> None:
        """Report the new try. Raises: `error` if it would end the same."""
        if is_final(failures.values()):
            raise error
        self.number += bool(failures)
        lost_first = sorted(failures.items(), key=lambda item: not is_lost(item[1]))  # others may wait for it
        rank, failure = lost_first[0] if failures else (None, error)
        who = "the group of workers" if rank is None else f"worker {rank}"
        said = f"{type(failure).__name__}: {' '.join(line_of(failure).split())[:300]}"
        count = f" (try {self.number} of {self.limit})" if failures else ""
        self.relay.send.remote(f"train: {who} failed ({said}); starting again from the last checkpoint{count}")
