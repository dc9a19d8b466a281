"""engine_watch: an engine that has requests, but computes no token for long, is given up.

In: a loaded engine. Out: its responses, or EngineSilent. It says nothing about the requests: the driver lets another
engine make the unit, and no row fails. The silent engine's process ends, because nothing else frees its GPU.
"""

import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from seva_ray.core.durations import duration
from seva_ray.core.records import Response
from seva_ray.engines import Generator, Request

MOST_CALLS = 64
"""Largest number of units that an engine works on at once."""
LOOKS_EVERY_S = 1.0
ENDS_AFTER_S = 10.0
"""Time in which the driver hears of it before the process ends, in seconds. A process that ends at once would be
started again, and would get the same units without an end."""


class EngineSilent(Exception):
    """An engine has computed nothing for too long. The message is one line."""


class WatchedGenerator:
    """An engine whose calls wait only as long as it computes something."""

    def __init__(self, generator: Generator, silent_s: float):
        """`silent_s`: the longest time without a token while a call waits, in seconds."""
        self.generator, self.silent_s = generator, silent_s
        self.callers = ThreadPoolExecutor(MOST_CALLS)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """The engine's responses. Raises: EngineSilent; whatever the engine raises."""
        began = time.monotonic()
        call = self.callers.submit(self.generator.generate, requests)
        while not wait([call], min(LOOKS_EVERY_S, self.silent_s)).done:
            if time.monotonic() - max(began, self.generator.computed_at) > self.silent_s:
                end_soon()
                raise EngineSilent(
                    f"an engine on {socket.gethostname()} has computed no token for {duration(self.silent_s)}, with "
                    f"{len(requests):,} requests to answer"
                )
        return call.result()


def end_soon() -> None:
    """End this process after ENDS_AFTER_S. A thread that computes for ever keeps it from ending by itself."""
    ends = threading.Timer(ENDS_AFTER_S, os._exit, [1])
    ends.daemon = True
    ends.start()
