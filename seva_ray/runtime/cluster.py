"""Joining a Ray cluster: the one that a job was submitted to, or one on this machine that listens on loopback only."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from seva_ray.core.errors import InputError, UserError
from seva_ray.core.patience import WAIT_S, WAIT_VARIABLE
from seva_ray.private.ray import CORE_SETTINGS, QUIET_LOGGERS, listen_on_loopback_only
from seva_ray.runtime import machine, metrics
from seva_ray.runtime.address import check_address
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.metrics import connected
from seva_ray.runtime.progress import say
from seva_ray.runtime.reaper import reaped
from seva_ray.runtime.resources import tell_node_types
from seva_ray.runtime.signals import kept

TOO_LATE = "timed out during startup"
"""What Ray says, as an Exception of no class of its own, if a cluster has not started within 30 s."""

MOST_TEMPORARY_BYTES = 36
"""Longest path of a directory for temporary files, in bytes. A socket's path may have 107 bytes, and Ray's sockets add
up to 70."""


before_shutdown: list[Callable[[], None]] = []
"""What must end before Ray does. An error may leave a dataset whose rows nobody asks for any more. After a shutdown its
thread fails, and what it then asks of Ray starts a new cluster."""


@contextmanager
def cluster() -> Iterator[None]:
    """Wrap this around a job: if one of its stages starts a cluster, the cluster is shut down at the end."""
    joined = connected()
    try:
        yield
    finally:
        if not joined and connected():
            import ray

            try:
                for end in list(before_shutdown):
                    end()
            finally:
                ray.shutdown()


def join(spare_cpus: int = 0) -> None:
    """Connect to Ray if not yet connected. Stages call this only when they have work, so a job without work is quick.

    If `RAY_ADDRESS` names a running cluster (`ray job submit` sets it), this process joins it. Otherwise a cluster is
    started here. It counts the GPUs that torch can use, and `spare_cpus` more CPUs than the machine has, for work that
    is short or mostly waits. Raises: InputError if there is no connection, or if torch cannot use the machine's GPUs.
    """
    if not connected():
        with waiting("Ray: waiting for the cluster"):
            connect(spare_cpus)


def connect(spare_cpus: int) -> None:
    """Connect to the cluster, as `join` describes."""
    if not os.environ.get("RAY_ADDRESS", "").strip():
        os.environ.pop("RAY_ADDRESS", None)  # an empty one names no cluster
    address = os.environ.get("RAY_ADDRESS", "local")
    check_address(address)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if address == "local":
        listen_on_loopback_only()
        use_short_paths()
    # Without this, Ray's core prints a warning about its own Data actors on the terminal at every run.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name, value in CORE_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        try:
            start(address, spare_cpus)
        except Exception as error:
            if address != "local" or TOO_LATE not in str(error):
                raise
            say("Ray: did not start within 30 s, as happens on a busy machine; it is started once more")
            start(address, spare_cpus)
    except UserError:
        raise
    except Exception as error:  # of a start that takes too long, Ray raises an error of no class of its own
        said = " ".join(str(error).split())[:400]
        if address == "local":
            place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
            logs = f"{place}/ray/session_latest/logs"
            raise InputError(f"Ray cannot start here: {said}; its logs are in {logs}") from error
        if isinstance(error, ConnectionError):
            said = (
                "is it running, do RAY_AUTH_MODE and RAY_AUTH_TOKEN agree with it, and is this the port "
                "that `ray start` named (by default 6379; 10001 belongs to ray://)?"
            )
        raise InputError(f"RAY_ADDRESS {address}: no connection to a Ray cluster there; {said}") from error
    metrics.joined()
    if address != "local":
        tell_node_types()


def start(address: str, spare_cpus: int) -> None:
    """Join the cluster at `address`, or start one if it is `local`."""
    import ray

    local = address == "local"
    with kept(), without_line(b"Set ray log level"), reaped() if local else nullcontext():
        ray.init(
            address=address,
            include_dashboard=False if local else None,
            num_cpus=machine.num_cpus() + spare_cpus if local else None,
            num_gpus=machine.num_gpus() if local else None,
            # Workers of a running cluster do not have this process's environment.
            runtime_env={"env_vars": {WAIT_VARIABLE: os.environ[WAIT_VARIABLE]}} if passes_limit(address) else None,
            logging_level=logging.WARNING,
            log_to_driver=False,  # stages print what users need; workers' logs are in Ray's session directory
        )


def use_short_paths() -> None:
    """Let Ray and vLLM make their sockets under /tmp if TMPDIR is too long a path for them, as it may be in a cluster's
    job. What the user set stays."""
    if len(os.fsencode(tempfile.gettempdir())) > MOST_TEMPORARY_BYTES:
        for variable in ("RAY_TMPDIR", "VLLM_RPC_BASE_PATH"):
            os.environ.setdefault(variable, "/tmp")


def passes_limit(address: str) -> bool:
    """Whether workers must be told how long to wait for storage: not if it is as long as usual."""
    return address != "local" and float(os.environ.get(WAIT_VARIABLE, WAIT_S)) != WAIT_S


@contextmanager
def without_line(start: bytes) -> Iterator[None]:
    """Hold back standard error, and print it at the end without the lines that contain `start`.

    Ray's core prints at every start that it found RAY_BACKEND_LOG_LEVEL, and this cannot be turned off. What Python
    prints, such as a heartbeat, is not held back.
    """
    sys.stderr.flush()
    terminal, usual = os.dup(2), sys.stderr
    is_terminal = usual is sys.__stderr__
    if is_terminal:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=usual.encoding, errors=usual.errors)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr = usual
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if start not in line:
                    os.write(2, line)
