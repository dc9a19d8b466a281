"""Heartbeat: a job that prints nothing for a while prints what it is waiting for, and for how long.

A line comes after at most 20 seconds of silence, on a terminal and in a log file alike.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from seva_ray.core.durations import duration
from seva_ray.runtime import progress

QUIET_S = 15.0
"""Seconds without a line after which a heartbeat is printed."""
LOOK_EVERY_S = 1.0

Item = TypeVar("Item")


@dataclass(eq=False)
class Wait:
    """Something that the job waits for."""

    what: str
    since: float
    """When the wait began, on the monotonic clock, in s."""

    def becomes(self, what: str) -> None:
        """Say that the job waits for `what` from now on."""
        self.what, self.since = what, time.monotonic()


waits: list[Wait] = []
"""What this process is waiting for now. The last one is shown: it is the most exact."""
starting = threading.Lock()
threads: list[threading.Thread] = []
"""The thread that prints, once it has started."""


@contextmanager
def waiting(what: str) -> Iterator[Wait]:
    """While the block runs, say what the job waits for whenever nothing else was printed for QUIET_S seconds. `what` is
    the stage and its work, such as `generate: the engine loads the model`."""
    with starting:
        if not threads:
            threads.append(threading.Thread(target=beat, daemon=True))
            threads[0].start()
    wait = Wait(what, time.monotonic())
    waits.append(wait)
    try:
        yield wait
    finally:
        waits.remove(wait)


def awaited(items: Iterable[Item], first: str, others: str) -> Iterator[Item]:
    """Yield the items. While one is awaited, the heartbeat says `first` or, after the first item, `others`."""
    left, what = iter(items), first
    while True:
        try:
            with waiting(what):
                item = next(left)
        except StopIteration:
            return
        yield item
        what = others


def beat() -> None:
    """Run the thread that prints."""
    while True:
        time.sleep(LOOK_EVERY_S)
        look()


def look() -> None:
    """Print a line if it is due."""
    now, shown = time.monotonic(), waits[-1:]
    if shown and now - progress.said_at >= QUIET_S:
        progress.say(f"{shown[0].what}, {duration(now - shown[0].since)} so far")
