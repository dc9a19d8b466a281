"""A limit of CPU time and memory for the work on one row, inside the process that does it.

In: a function that works on a row, such as a chat template that is filled in. Out: its result, or an InputError. A
thread looks on, and raises an exception in a thread whose work takes too much. It arrives between two instructions of
Python: one call of a compiled library is never cut short. The time is CPU time, so that no row fails because a machine
is busy.
"""

import ctypes
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from seva_ray.core.errors import InputError

Result = TypeVar("Result")

ROW_CPU_S = 60.0
"""CPU time of one row in one view, in seconds. The largest images that are read take a few."""
LOOKS_EVERY_S = 0.1
LIMIT_BYTES = 4 * 2**30
"""By how much the process may grow during one row, in bytes. An image of 64 megapixels takes 0.8 GB for each copy in
float32. It is known on Linux only, and other threads of the process count too."""
STATM = Path("/proc/self/statm")


class Exceeded(BaseException):
    """Raised in the thread whose work takes too much. No library that catches its own errors catches it."""


@dataclass(eq=False)
class Work:
    """A row that a thread works on."""

    thread: int
    cpu_s: float
    """The limit of its CPU time, in s."""
    clock: Callable[[], float]
    """The CPU time of the thread, in s."""
    began: float = 0.0
    memory: int = 0
    """Memory of the process when the thread looked first, in bytes; 0: it has not looked yet."""
    excess: str = field(default="", init=False)
    """What the row takes too much of; empty as long as it does not."""


running: list[Work] = []
looking = threading.Lock()
watchers: list[threading.Thread] = []
"""The thread that looks on, once it has started."""


def within(cpu_s: float, work: Callable[[], Result]) -> Result:
    """The result of `work`, which works on one row. Raises: InputError if it takes more than `cpu_s` seconds of CPU
    time or LIMIT_BYTES of memory; whatever `work` raises."""
    mine = Work(threading.get_ident(), cpu_s, clock_of_this_thread())
    mine.began = mine.clock()
    try:
        try:
            begin(mine)
            return work()
        finally:
            end(mine)
    except Exceeded:
        end(mine)  # the exception may have come in the middle of it
        raise InputError(f"the row takes more than {mine.excess}") from None


def clock_of_this_thread() -> Callable[[], float]:
    """The CPU time of this thread, which any other thread may ask for; the time on the wall where no system tells."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)


def begin(work: Work) -> None:
    with looking:
        running.append(work)
        if not watchers or not watchers[0].is_alive():  # it does not live on in a process that was forked
            watchers[:] = [threading.Thread(target=watch, daemon=True)]
            watchers[0].start()


def end(work: Work) -> None:
    """From now on nothing is raised for this work."""
    with looking:
        if work in running:
            running.remove(work)
        raise_in(work.thread, None)


def watch() -> None:
    """Run the thread that looks on."""
    while True:
        time.sleep(LOOKS_EVERY_S)
        with looking:
            for work in running:
                look(work)


def look(work: Work) -> None:
    memory = memory_taken()
    work.memory = work.memory or memory
    if work.clock() - work.began > work.cpu_s:
        work.excess = f"{work.cpu_s:g} s of CPU time"
    elif memory - work.memory > LIMIT_BYTES:
        work.excess = f"{LIMIT_BYTES / 2**30:g} GiB of memory"
    else:
        return
    raise_in(work.thread, Exceeded)  # again at every look, because a library may drop it in a callback


def memory_taken() -> int:
    """Memory of this process, in bytes; 0 if the system does not tell."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize() if STATM.exists() else 0


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Let a thread raise an exception as soon as it runs Python again; None: take back one that it has not raised."""
    kind = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), kind)
