"""Joining the Ray cluster: the one a job was submitted to, or one on this machine that listens on loopback only."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from seva_ray.core.errors import InputError
from seva_ray.runtime import machine, metrics
from seva_ray.runtime.resources import tell_node_types
from seva_ray.runtime.signals import kept


@contextmanager
def cluster() -> Iterator[None]:
    """Around a job: the cluster that one of its stages started is shut down at the end."""
    joined = ray.is_initialized()
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


def join(spare_cpus: int = 0) -> None:
    """Connect to Ray if that is still to be done. Stages call this when they have work: a job without any stays quick.

    A running cluster is joined where `RAY_ADDRESS` names it, as `ray job submit` does. One that is started here counts
    the GPUs that torch can use, and `spare_cpus` more CPUs than there are: what then runs beside the others is short,
    or waits for others itself. Raises: InputError where there is no connection, or torch cannot use the machine's GPUs.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    for name in ("ray.data", "ray._private.authentication"):  # plans, and that token authentication is on
        logging.getLogger(name).setLevel(logging.ERROR)
    if address == "local":
        # Else Ray listens on all addresses of the machine, and serves metrics there to anybody. Its own setting, for
        # systems whose firewall would ask; the environment variable for it is read when Ray is imported.
        ray_constants.ENABLE_RAY_CLUSTER = False
    # Ray's core would print a warning about its own Data actors on the terminal at every run.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # And about every few processes of a study on a small machine: they wait for each other, and take no CPU.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    # A process that has run a task is kept for the next one, two minutes instead of a second: it takes five seconds
    # until it has imported what encodes images.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "120000")
    try:
        with kept(), without_line(b"Set ray log level"):
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                num_cpus=machine.num_cpus() + spare_cpus if address == "local" else None,
                num_gpus=machine.num_gpus() if address == "local" else None,
                logging_level=logging.WARNING,
                log_to_driver=False,  # stages say what a person needs; workers' lines are in Ray's session directory
            )
    except ConnectionError as error:
        if address == "local":
            raise
        advice = "is it running, and do RAY_AUTH_MODE and RAY_AUTH_TOKEN agree with it?"
        raise InputError(f"RAY_ADDRESS {address}: no connection to a Ray cluster there; {advice}") from error
    metrics.joined()
    if address != "local":
        tell_node_types()


@contextmanager
def without_line(start: bytes) -> Iterator[None]:
    """What Ray's core writes to standard error meanwhile appears at the end, less the lines that hold `start`.

    The core says at every start that it found RAY_BACKEND_LOG_LEVEL, and has no switch for that.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if start not in line:
                    os.write(2, line)
