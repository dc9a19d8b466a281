"""Failures of training workers: what the user can do about one, and which of them would only happen again."""

import errno
import traceback
from collections.abc import Collection

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import InputError, NothingLeft, UserError, line_of, names_of
from seva_ray.core.patience import REMOTE_IO, StorageUnavailable, reason_of
from seva_ray.core.storage import exists, read_bytes
from seva_ray.private.ray import errors_within

DIVERGED = "diverged.txt"
"""Written instead of a model if training diverged. After an error Ray would try again, with the same result."""

BEFORE_FIRST_STEP = "This happened before the first step of training."
"""A note on an exception. A traceback shows it, and unlike a cause it survives the way to the driver."""

OF_THE_JOB = (
    *(ValueError, TypeError, LookupError, AttributeError, ImportError, AssertionError, ArithmeticError),
    *(FileNotFoundError, PermissionError),
)
"""Kinds of errors that follow from the job, if they come before the first step. A lost connection has other kinds."""

LOST = {"RayActorError", "WorkerHealthCheckFailedError"}
"""Names of Ray's errors for a worker that is gone. They are not imported here, because that takes seconds."""

OF_A_MOUNT = {errno.EIO, errno.ESTALE, REMOTE_IO, errno.EHOSTDOWN, errno.ENOTCONN}
"""What a disk or a mount says when it does not answer. Ray itself writes checkpoints there, and tries only once."""

LESS_MEMORY = (
    "a lower --train.per-device-batch-size or --train.lora.rank, --train.gradient-checkpointing, --train.zero-stage 3 "
    "and --train.offload need less"
)


def explained(error: Exception, trackers: Collection[str], started: bool) -> Exception:
    """What a worker raises for `error`. `started`: whether it has trained a step."""
    if isinstance(error, UserError):
        return error
    if out_of_memory(error):
        return InputError(f"train: out of memory ({' '.join(line_of(error).split())}); {LESS_MEMORY}")
    if tracker := refusing(error, trackers):
        return InputError(f"train: tracker {tracker}: {line_of(error)}; --train.trackers names those to use")
    if not started:
        error.add_note(BEFORE_FIRST_STEP)
    return error


def out_of_memory(error: BaseException) -> bool:
    """Whether this process or its GPU had no memory for what it computed."""
    known = bool(names_of(error) & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)
    return known and not ended_for_memory(error)


def ended_for_memory(error: BaseException) -> bool:
    """Whether Ray ended a process because its machine's memory was nearly full, be it by other programs. Ray's error
    has the name of torch's."""
    return names_of(error) >= {"OutOfMemoryError", "RayError"}


def refusing(error: Exception, trackers: Collection[str]) -> str:
    """The tracker whose code raised the error; empty if none did."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    rooms = {name.partition(".")[0] for name in frames}
    return next((tracker for tracker in trackers if tracker in rooms), "")


def is_final(failures: Collection[BaseException]) -> bool:
    """Whether another try would end the same. `failures`: those of all workers of a group."""
    if any(isinstance(failure, UserError) or out_of_memory(failure) for failure in failures):
        return True
    # If one worker is lost, others may fail because they wait for it.
    return any(map(of_the_job, failures)) and not any(map(is_lost, failures))


def is_lost(failure: BaseException) -> bool:
    """Whether the worker itself is gone."""
    return bool(names_of(failure) & LOST) or ended_for_memory(failure)


def of_the_job(failure: BaseException) -> bool:
    before = BEFORE_FIRST_STEP in getattr(failure, "__notes__", ())
    return before and (isinstance(failure, OF_THE_JOB) or type(failure).__name__ == "SafetensorError")


def stop_if_unavailable(error: BaseException, uri: str) -> None:
    """Raises: StorageUnavailable if a training ended because the disk or the mount of `uri` did not answer."""
    for cause in (error, *errors_within(error)):
        if isinstance(cause, OSError) and cause.errno in OF_A_MOUNT:
            raise StorageUnavailable(
                f"{uri}: the storage does not answer ({reason_of(cause)}); run the same command again to continue from "
                "the last checkpoint"
            ) from error


def stop_if_diverged(policy: Artifact) -> None:
    """Raises: NothingLeft if training ended with nan or infinite numbers."""
    uri = policy.path(DIVERGED)
    if not policy.complete and exists(uri):
        raise NothingLeft(
            f"{policy.name}: {read_bytes(uri).decode()}; try a lower learning_rate, or dtype float32, under another "
            f"name or after removing {policy.uri}"
        )
