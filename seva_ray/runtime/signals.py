"""The signals that end a job. It stops with one line, and the same command goes on later.

Ray takes these signals over: its core prints a stack of its own for SIGTERM, and Ray Train turns Ctrl-C into a silent
exit. `kept` gives them back to the job.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

OTHERS = (signal.SIGTERM, signal.SIGHUP)
"""What Slurm, Kubernetes, `timeout` and a lost terminal send. Python itself makes a KeyboardInterrupt of SIGINT."""


received: list[int] = []
"""Of the other signals, those that this process was sent."""


def stop_on_signals() -> None:
    """From now on the other signals raise KeyboardInterrupt in this process too: Ray, when it waits, lets nothing else
    through. One that is ignored, as under nohup, stays so."""
    for number in OTHERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    received.append(number)
    raise KeyboardInterrupt


def ending() -> tuple[str, int]:
    """After a KeyboardInterrupt: the line to show, and the exit status."""
    number = received[0] if received else signal.SIGINT
    what = f"stopped by {signal.Signals(number).name}" if received else "interrupted"
    return f"{what}: the same command goes on with what is missing", 128 + number


@contextmanager
def kept() -> Iterator[None]:
    """Whatever runs inside, afterwards the signals end the job as they did before."""
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *OTHERS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set by Python, and cannot be set again by it
                signal.signal(number, handler)
