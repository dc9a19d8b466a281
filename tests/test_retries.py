"""A failure of training workers that a new try cannot mend ends the run at once; any other is told in a line."""

import types
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.controller import state as states

from seva_ray.core.errors import InputError
from seva_ray.private.ray import restart_callback
from seva_ray.runtime.cli import users_line
from seva_ray.stages.training.failures import explained, is_final
from seva_ray.stages.training.retries import Retries

GONE = WorkerHealthCheckFailedError("worker 1 is gone", RayActorError())
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2315")


def told(error: Exception, started: bool, trackers: tuple[str, ...] = ("tensorboard",)) -> Exception:
    """The error as the driver gets it from a worker."""
    return cloudpickle.loads(cloudpickle.dumps(explained(error, trackers, started)))


@pytest.mark.parametrize(
    ("error", "started", "final"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), False, True),
        (ValueError("a field of the model's config is missing"), False, True),
        (FileNotFoundError(2, "No such file", "model.safetensors"), False, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB"), True, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True, True),
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."), False, False),
        (InputError("model x: gone"), True, True),
        (ValueError("something that a step met"), True, False),
        (PEER, False, False),
        (ConnectionResetError("the object store hung up"), False, False),
        (torch.distributed.DistBackendError("NCCL error"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_follows_from_the_job_is_not_tried_again(error: Exception, started: bool, final: bool):
    failure = told(error, started)
    assert is_final([failure]) == is_final([PEER, failure]) == final


def test_what_a_worker_meets_while_another_is_lost_may_be_due_to_that():
    collateral = told(ValueError("nothing arrived"), started=False)
    assert is_final([collateral])
    assert not is_final([collateral, GONE])
    assert is_final([told(torch.OutOfMemoryError("CUDA out of memory"), started=True), GONE])


def test_a_full_gpu_is_one_line_that_names_what_needs_less():
    failure = told(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.\nGPU 0 has ..."), started=True
    )
    line = users_line(WorkerGroupError("Training failed", {0: failure}))
    assert line is not None
    assert line.startswith("train: out of memory (CUDA out of memory. Tried to allocate 1.50 GiB.); ")
    assert {"--train.lora.rank,", "--train.offload", "--train.per-device-batch-size"} < set(line.split())


def test_a_tracker_that_refuses_is_named_with_the_option_that_chooses_trackers():
    tracker = types.ModuleType("wandb.errors")
    exec("def log_in():\n    raise RuntimeError('no API key: run wandb login')", tracker.__dict__)
    with pytest.raises(RuntimeError) as caught:
        tracker.log_in()
    failure = told(caught.value, False, ("tensorboard", "wandb"))
    assert isinstance(failure, InputError)
    assert str(failure).startswith("train: tracker wandb: no API key: run wandb login; --train.trackers")
    assert not isinstance(told(RuntimeError("of another library"), True, ("wandb",)), InputError)


class LogRelay:
    """Stands for an actor's handle."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.send = self

    def remote(self, line: str) -> None:
        self.lines.append(line)


def test_each_new_try_says_why_and_a_try_that_cannot_help_is_not_made():
    relay = LogRelay()
    callback = restart_callback(Retries(relay=relay, limit=3).notice)

    def at(state: Any) -> None:
        callback.after_controller_state_update(states.RunningState(), state)

    at(states.RestartingState(WorkerGroupError("failed", {0: PEER, 1: GONE})))
    at(states.RunningState())
    at(states.RestartingState(WorkerGroupError("failed", {0: told(ValueError("odd\nand more"), started=True)})))
    assert relay.lines == [
        "train: worker 1 failed (WorkerHealthCheckFailedError: worker 1 is gone); starting again from the last "
        "checkpoint (try 1 of 3)",
        "train: worker 0 failed (ValueError: odd); starting again from the last checkpoint (try 2 of 3)",
    ]
    with pytest.raises(WorkerGroupError, match="failed"):
        at(states.RestartingState(WorkerGroupError("failed", {0: told(ValueError("odd"), started=False)})))
    assert len(relay.lines) == 2
