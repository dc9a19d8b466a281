"""silence: a training worker that computes nothing for long ends, and Ray Train starts its group again.

Ray Train itself waits for ever for a worker that hangs, for example on a GPU that fell off its bus or on a mount.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from seva_ray.core.durations import duration

LOOKS_EVERY_S = 1.0
SAYS_FOR_S = 1.0
"""Time in which the line reaches the driver before the process ends, in seconds."""


@contextmanager
def ends_if_silent(silent_s: float, computed_at: Callable[[], float], say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, end this process if it computes nothing for `silent_s` seconds. `computed_at`: when it last
    finished a batch, on the monotonic clock, in s. `say` shows the user a line."""
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(min(LOOKS_EVERY_S, silent_s)):
            if time.monotonic() - max(began, computed_at()) > silent_s:
                say(
                    f"train: a worker on {socket.gethostname()} has finished no batch for {duration(silent_s)}, and is "
                    "ended; --train.silent-s sets the time"
                )
                time.sleep(SAYS_FOR_S)
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()
