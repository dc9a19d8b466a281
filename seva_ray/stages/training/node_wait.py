"""Waiting for nodes: what Ray Train's controller does while a group of training workers cannot be started.

Ray tries again every minute. This callback reports the wait, and ends the run if the wait is longer than its limit.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import state as states

from seva_ray.core.durations import duration
from seva_ray.core.errors import InputError

NO_WORKERS = (states.InitializingState, states.SchedulingState, states.ReschedulingState, states.RestartingState)

NUM_STARTS = 3
"""How often workers may fail to start although their nodes are available."""


@dataclass(kw_only=True)
class Waiting(ControllerCallback):
    """A callback for Ray Train's `RunConfig.callbacks`. It runs in Ray Train's controller."""

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

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Report the wait. Raises: InputError if no nodes became available for `limit_s` seconds."""
        now = time.monotonic()
        if not isinstance(current_state, NO_WORKERS):
            self.since, self.num_failed = None, 0
            return
        if self.since is None:
            self.since = self.reported_at = now
        if isinstance(current_state, states.ReschedulingState):
            self.check_start(current_state.training_failed_error)
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

    def check_start(self, error: Any) -> None:
        """Raises: `error` if nodes are available, but the workers have failed too often to start on them."""
        if not isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
            self.num_failed += 1
            if self.num_failed > NUM_STARTS:
                raise error
