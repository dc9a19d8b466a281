"""Waiting for nodes: what Ray Train's controller does while a group of training workers cannot be started.

Ray tries again every minute. `Waiting` reports the wait, and ends the run if the wait is longer than its limit.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from seva_ray.core.durations import duration
from seva_ray.core.errors import InputError

NUM_STARTS = 3
"""How often workers may fail to start although their nodes are available."""


@dataclass(kw_only=True)
class Waiting:
    """Its `notice` is for `seva_ray.private.ray.start_callback`. It runs in Ray Train's controller."""

    what: str
    """The resources that the workers are waiting for, as shown to the user."""
    limit_s: float
    """Longest wait, in seconds."""
    relay: Any
    """The LogRelay that gets the lines."""
    every_s: float = 45.0
    """Least time between two lines, in seconds. Ray's own time-out is a minute, so each attempt gets one line."""
    since: float | None = field(default=None, init=False)
    reported_at: float = field(default=0.0, init=False)
    num_failed: int = field(default=0, init=False)

    def notice(self, waiting: bool, error: BaseException | None) -> None:
        """Report the wait. Raises: InputError if no nodes became available for `limit_s` seconds; `error` if nodes are
        available, but the workers have failed too often to start on them."""
        now = time.monotonic()
        if not waiting:
            self.since, self.num_failed = None, 0
            return
        if self.since is None:
            self.since = self.reported_at = now
        if error:
            self.num_failed += 1
            if self.num_failed > NUM_STARTS:
                raise error
        waited = now - self.since
        if waited >= self.limit_s:
            raise InputError(
                f"train: the cluster had no room for {self.what} for {duration(waited)}, longer than wait_s "
                f"{self.limit_s:g}; run the same command again to continue from the last checkpoint"
            )
        if now - self.reported_at >= self.every_s:
            self.reported_at = now
            limit = f"the job ends after {duration(self.limit_s)} (wait_s)"
            self.relay.send.remote(f"train: waiting for {self.what}, {duration(waited)} so far; {limit}")
