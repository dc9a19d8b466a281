"""A small process that ends what a cluster on this machine leaves behind when its driver is killed.

Most processes of Ray end with the one that started them. But an agent of Ray that is just starting waits for its
raylet for more than a minute, and a process that a library has started may not notice at all that its parent has
ended. All of them have the environment of the driver's `ray.init`, and so a mark by which they are found. The small
process runs this file alone, so it takes little memory and time.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "SEVA_RAY_REAPED_WITH"
"""The environment variable that marks a process of the cluster. Its value names the driver."""
KEPT = "SPT_NOENV"
"""The environment variable that keeps setproctitle, with which Ray names its processes, from overwriting what /proc
shows of the environment."""
LOOKS_EVERY_S = 0.5
PATIENCE_S = 2.0
"""Time for processes to end by themselves after the driver, in seconds."""
FOLLOWS_S = 20.0
"""Time after which no more processes are ended, in seconds."""

started: dict[int, tuple[str, "subprocess.Popen[bytes]"]] = {}
"""The mark of a driver's processes and the small process that knows it, by the driver's process id: a process that was
forked from a driver has none."""


@contextlib.contextmanager
def reaped() -> Iterator[None]:
    """Processes that start within the block, and all that these start later, are ended if this process is killed.

    This process may end in any way. Only Linux tells the environment of a process; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        yield
        return
    driver = os.getpid()
    if driver not in started:
        mark = f"{driver}-{time.time_ns()}"
        small_process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(driver), mark],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a signal to the job's group, such as that of Ctrl-C, does not end it
        )
        started[driver] = mark, small_process
    before = {name: os.environ.get(name) for name in (MARK, KEPT)}
    os.environ |= {MARK: started[driver][0], KEPT: "1"}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def marked(mark: str) -> list[int]:
    """The processes that have the mark in their environment, without this one."""
    entry, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or it is another user's
                if entry in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    found.append(int(name))
    return found


def reap(driver: int, mark: str) -> None:
    """Wait until the driver, which is the parent of this process, has ended. Then end what it has left behind."""
    while os.getppid() == driver:
        time.sleep(LOOKS_EVERY_S)
    ended = time.monotonic()
    while (left := marked(mark)) and time.monotonic() < ended + FOLLOWS_S:
        if time.monotonic() > ended + PATIENCE_S:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(LOOKS_EVERY_S)


if __name__ == "__main__":
    reap(int(sys.argv[1]), sys.argv[2])
