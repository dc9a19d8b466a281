"""Training that waits for nodes tells of it now and then, and ends in time."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import state as states

from seva_ray.core.errors import InputError
from seva_ray.private.ray import start_callback
from seva_ray.stages.training import node_wait
from seva_ray.stages.training.node_wait import NUM_STARTS, Waiting

WORKERS = "2 workers with 1 GPU and 1 of resource 'training' each"
TIMED_OUT = states.ReschedulingState(ControllerError(WorkerGroupStartupTimeoutError(num_workers=2)))
FAILED = states.ReschedulingState(ControllerError(WorkerGroupStartupFailedError("a worker died")))
LOST = states.RestartingState(WorkerGroupError("a worker is gone", {}))


class LogRelay:
    """Stands for an actor's handle."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.send = self

    def remote(self, line: str) -> None:
        self.lines.append(line)


class Controller:
    """Goes through states at given times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_s: float):
        self.monkeypatch, self.relay = monkeypatch, LogRelay()
        waiting = Waiting(what=WORKERS, limit_s=limit_s, relay=self.relay)
        self.callback = start_callback(waiting.notice)

    def at(self, second: float, state: Any) -> None:
        self.monkeypatch.setattr(node_wait, "time", SimpleNamespace(monotonic=lambda: second))
        self.callback.after_controller_state_update(states.InitializingState(), state)


def test_each_minute_without_nodes_is_one_line_and_a_new_wait_begins_when_workers_were_there(
    monkeypatch: pytest.MonkeyPatch,
):
    controller = Controller(monkeypatch, limit_s=3600)
    controller.at(0, states.SchedulingState(None))
    controller.at(60, TIMED_OUT)
    controller.at(60.1, states.SchedulingState(None))
    controller.at(120, TIMED_OUT)
    controller.at(150, states.RunningState())
    controller.at(5000, LOST)
    controller.at(5010, states.SchedulingState(None))
    controller.at(5060, TIMED_OUT)
    assert controller.relay.lines == [
        f"train: waiting for {WORKERS}, {waited} so far; the job ends after 60.0 min (wait_s)"
        for waited in ("60 s", "2.0 min", "60 s")
    ]


def test_a_wait_that_is_too_long_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch):
    controller = Controller(monkeypatch, limit_s=100)
    controller.at(0, LOST)
    controller.at(60, TIMED_OUT)
    with pytest.raises(
        InputError,
        match=f"no room for {WORKERS} for 2.0 min, longer than wait",
    ):
        controller.at(120, TIMED_OUT)


def test_workers_that_fail_on_nodes_that_are_there_are_not_started_for_ever(monkeypatch: pytest.MonkeyPatch):
    controller = Controller(monkeypatch, limit_s=3600)
    for second in range(NUM_STARTS):
        controller.at(second, FAILED)
        controller.at(second, TIMED_OUT)
    with pytest.raises(ControllerError, match="a worker died"):
        controller.at(NUM_STARTS, FAILED)
