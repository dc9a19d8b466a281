"""Terminal lines that say what a long stage has done and how long the rest will take."""

import sys
import time

from seva_ray.core.durations import duration

said_at = time.monotonic()
"""When the last line was printed, or this module was loaded, on the monotonic clock, in s."""


class Progress:
    """Prints at most once every `every_s` seconds, and once at the end. The rate leaves out the time before the first
    result."""

    def __init__(self, stage: str, total: int, unit: str, every_s: float = 10.0):
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.done = self.first = 0
        self.started = self.printed = time.monotonic()

    def add(self, count: int, note: str = "") -> None:
        now = time.monotonic()
        if not self.done:
            self.first, self.started = count, now
        self.done += count
        if now - self.printed < self.every_s and self.done < self.total:
            return
        self.printed = now
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        left = f", {duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        say(f"{self.stage}: {self.done:,}/{self.total:,} {self.unit}{left}{note}")


def say(line: str) -> None:
    """Print a line for the user, to standard error."""
    global said_at
    said_at = time.monotonic()
    print(line, file=sys.stderr, flush=True)
