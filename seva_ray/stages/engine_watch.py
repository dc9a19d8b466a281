"""engine_watch: a worker with a model that computes nothing for long is given up.

In: what a worker of Ray Data does: it loads its model, or answers requests, or works on a shard. Out: the result, or
WorkerSilent. That says nothing about the rows: the driver lets another worker make the unit or the shard, and no row
fails. The silent worker's process ends, because nothing else frees its GPU.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from seva_ray.core.durations import duration
from seva_ray.core.errors import line_of
from seva_ray.core.records import Response
from seva_ray.engines import Generator, Request
from seva_ray.private.ray import errors_within, raised_in_constructor

Result = TypeVar("Result")

MOST_POOLS = 3
"""Number of pools of workers after which work is given up, if each of them ends early."""
MOST_CALLS = 64
"""Largest number of units that an engine works on at once."""
LOOKS_EVERY_S = 1.0
ENDS_AFTER_S = 10.0
"""Time in which the driver hears of it before the process ends, in seconds. A process that ends at once would be
started again, and would get the same units without an end."""


class WorkerSilent(Exception):
    """A worker has computed nothing for too long. The message is one line."""


def loaded(load: Callable[[], Result], limit_s: float, what: str) -> Result:
    """What `load` returns, in a thread of its own. `what`: the worker and its model, for the message. Raises:
    WorkerSilent if it takes longer than `limit_s` seconds, as on a mount that does not answer."""
    thread = ThreadPoolExecutor(1)
    try:
        return result_of(
            thread.submit(load), limit_s, lambda: 0.0, lambda on, time: f"{what}{on} has not loaded after {time}"
        )
    finally:
        thread.shutdown(wait=False)


def result_of(
    call: "Future[Result]", silent_s: float, computed_at: Callable[[], float], line: Callable[[str, str], str]
) -> Result:
    """The call's result. `computed_at`: when the worker last computed something, on the monotonic clock. `line`: the
    message, from the words ` on HOST` and the time without anything computed. Raises: WorkerSilent; whatever the call
    raises."""
    began = time.monotonic()
    while not wait([call], min(LOOKS_EVERY_S, silent_s)).done:
        if time.monotonic() - max(began, computed_at()) > silent_s:
            end_soon()
            raise WorkerSilent(line(f" on {socket.gethostname()}", duration(silent_s)))
    return call.result()


class WatchedGenerator:
    """An engine whose calls wait only as long as it computes something."""

    def __init__(self, generator: Generator, silent_s: float):
        """`silent_s`: the longest time without a token while a call waits, in seconds."""
        self.generator, self.silent_s = generator, silent_s
        self.callers = ThreadPoolExecutor(MOST_CALLS)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """The engine's responses. Raises: WorkerSilent; whatever the engine raises."""
        call = self.callers.submit(self.generator.generate, requests)
        return result_of(
            call,
            self.silent_s,
            lambda: self.generator.computed_at,
            lambda on, time: (
                f"an engine{on} has computed no token for {time}, with {len(requests):,} requests to answer"
            ),
        )


def end_soon() -> None:
    """End this process after ENDS_AFTER_S. A thread that computes for ever keeps it from ending by itself."""
    ends = threading.Timer(ENDS_AFTER_S, os._exit, [1])
    ends.daemon = True
    ends.start()


def silence_within(error: BaseException) -> str | None:
    """What a silent worker said, without what Ray puts around it; None for another error."""
    seen: list[Any] = [error]
    for cause in seen:
        within = errors_within(cause)
        if not within and isinstance(cause, WorkerSilent):
            return line_of(cause)
        if line := raised_in_constructor(cause, __name__):
            return line
        seen += [item for item in (*within, cause.__cause__) if item is not None and item not in seen]
    return None


def given_up(stage: str, silence: str, num_before: int, left: str) -> str:
    """The line with which a job ends whose workers compute nothing. `num_before`: how many were given up before.
    `left`: a sentence about what is not done."""
    return (
        f"{stage}: {silence}, and neither had the {num_before} before it; {left}; no row has failed, and the same "
        "command goes on; --generate.silent-s and --generate.load-s set the times"
    )
