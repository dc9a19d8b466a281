"""A process and a Ray cluster for each side of a comparison, so that no side finds the other's leavings."""

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import ray

from seva_ray.private.ray import init_in
from seva_ray.runtime import machine
from seva_ray.runtime.cluster import TOO_LATE

ONE_CORE = {"VLLM_CPU_OMP_THREADS_BIND": "0", "OMP_NUM_THREADS": "1"}
"""Environment in which vLLM computes on the first core only; to be set before a process loads torch."""

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a module's function in a new interpreter, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


@contextmanager
def own_cluster(**options: Any) -> Iterator[None]:
    """A Ray cluster in a directory of its own, whose path is short because sockets need it so. It has the GPUs that
    torch can use."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        settings = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.WARNING}
        settings |= {"num_gpus": machine.num_gpus()} | options
        try:
            init_in(directory, **settings)
        except Exception as error:
            if TOO_LATE not in str(error):
                raise
            ray.shutdown()  # the machine is busy
            init_in(directory, **settings)
        try:
            yield
        finally:
            ray.shutdown()


def peak_mb() -> float:
    """Peak memory of this process. `getrusage` would also count the process that started it."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024
