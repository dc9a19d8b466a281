"""Terminal lines that say what a long stage has done and how long the rest will take."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seva_ray.core.durations import duration


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
    print(line, file=sys.stderr, flush=True)


class LogRelay:
    """The actor that receives lines from workers, which the driver prints."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, line: str) -> None:
        self.lines.append(line)

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def here() -> Any:
    """Place an actor on the driver's own node. Otherwise Ray could place one that takes no CPU on another node, and it
    would be lost with that node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextmanager
def log_relay(every_s: float = 2.0) -> Iterator[Any]:
    """A LogRelay for workers. The lines that they `send` are printed here, also while the driver waits for results."""
    import ray

    relay = ray.remote(LogRelay).options(num_cpus=0, scheduling_strategy=here()).remote()
    finished = threading.Event()

    def listen() -> None:
        while not finished.wait(every_s):
            for line in ray.get(relay.taken.remote()):
                say(line)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        finished.set()
        thread.join()
        for line in ray.get(relay.taken.remote()):
            say(line)
        ray.kill(relay)
