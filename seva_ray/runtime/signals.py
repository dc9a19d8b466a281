"""The signals that end a job. The job prints one line and stops, and the same command can continue it later.

Ray installs its own handlers for these signals: its core prints a stack trace for SIGTERM, and Ray Train turns Ctrl-C
into a silent exit. `kept` restores the job's handlers.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

OTHERS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that Slurm, Kubernetes, `timeout` and a lost terminal send. Python already turns SIGINT into
KeyboardInterrupt."""


received: list[int] = []
"""The signals in OTHERS that this process has received."""


def stop_on_signals() -> None:
    """Make the signals in OTHERS raise KeyboardInterrupt too, because nothing else gets through while Ray waits. A
    signal that is already ignored (for example under nohup) stays ignored."""
    for number in OTHERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    received.append(number)
    raise KeyboardInterrupt


def was_interrupted(error: BaseException) -> bool:
    """Whether a signal ended the job. A library that is interrupted may raise an error of its own instead."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, KeyboardInterrupt):
            return True
        chain = chain.__cause__ or chain.__context__
    return bool(received)


def ending() -> tuple[str, int]:
    """The line to show and the exit status after a KeyboardInterrupt."""
    number = received[0] if received else signal.SIGINT
    what = f"stopped by {signal.Signals(number).name}" if received else "interrupted"
    return f"{what}: run the same command again to continue", 128 + number


@contextmanager
def kept() -> Iterator[None]:
    """Restore the signal handlers afterwards, whatever runs inside."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set a handler
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *OTHERS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: Python did not set this handler, so it cannot restore it
                signal.signal(number, handler)
