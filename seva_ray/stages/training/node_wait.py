"""Waiting for nodes: what Ray Train's controller does while a group of training workers cannot be started.

Ray tries again every minute. This callback tells of it, and ends the run when the wait has been long enough.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import state as states

from seva_ray.core.errors import InputError
from seva_ray.runtime.progress import duration

NO_WORKERS = (states.InitializingState, states.SchedulingState, states.ReschedulingState, states.RestartingState)

NUM_STARTS = 3
"""How often workers may fail while they start, on nodes that are there."""


@dataclass(kw_only=True)
class Waiting(ControllerCallback):
    """For Ray Train's `RunConfig.callbacks`; runs in its controller."""

    what: str
    """Is waited for."""
    limit_s: float
    relay: Any
    """Where it is told."""
    every_s: float = 45.0
    """Between two lines, at least. Ray's own time-out is a minute, so that there is one for each attempt."""
    since: float | None = field(default=None, init=False)
    told: float = field(default=0.0, init=False)
    num_failed: int = field(default=0, init=False)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Raises: InputError where nodes have not come for `limit_s`."""
        now = time.monotonic()
        if not isinstance(current_state, NO_WORKERS):
            self.since, self.num_failed = None, 0
            return
        if self.since is None:
            self.since = self.told = now
        if isinstance(current_state, states.ReschedulingState):
            self.check_start(current_state.training_failed_error)
        waited = now - self.since
        if waited >= self.limit_s:
            raise InputError(
                f"train: {self.what} had no place for {duration(waited)}, longer than wait_s {self.limit_s:g}; "
                "the same command goes on from the last checkpoint"
            )
        if now - self.told >= self.every_s:
            self.told = now
            ends = f"ends after {duration(self.limit_s)} (wait_s)"
            self.relay.send.remote(f"train: waits for {self.what}, for {duration(waited)} now; {ends}")

    def check_start(self, error: Any) -> None:
        """Raises: `error` where nodes are there, and the workers have failed too often to start on them."""
        if not isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError):
            self.num_failed += 1
            if self.num_failed > NUM_STARTS:
                raise error
