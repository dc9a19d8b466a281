"""The log relay: an actor through which workers print lines on the driver's terminal."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say


class LogRelay:
    """The actor that receives lines from workers, which the driver prints."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.what = ""

    def send(self, line: str) -> None:
        self.lines.append(line)

    def wait_for(self, what: str) -> None:
        """Tell the driver's heartbeat what the workers do from now on."""
        self.what = what

    def taken(self) -> tuple[list[str], str]:
        """The lines since the last call, and what the workers do now."""
        lines, self.lines = self.lines, []
        return lines, self.what


def here() -> Any:
    """Place an actor on the driver's own node. Otherwise Ray could place one that takes no CPU on another node, and it
    would be lost with that node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextmanager
def log_relay(what: str, every_s: float = 2.0) -> Iterator[Any]:
    """A LogRelay for workers. The lines that they `send` are printed here, also while the driver waits for results. The
    heartbeat says `what`, until a worker says what it waits for."""
    import ray

    relay = ray.remote(LogRelay).options(num_cpus=0, scheduling_strategy=here()).remote()
    finished = threading.Event()

    def listen() -> None:
        while not finished.wait(every_s):
            show()

    def show() -> None:
        lines, now = ray.get(relay.taken.remote())
        for line in lines:
            say(line)
        if now and now != wait.what:
            wait.becomes(now)

    with waiting(what) as wait:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            finished.set()
            thread.join()
            show()
            ray.kill(relay)
