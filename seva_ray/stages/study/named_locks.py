"""A lock for each name, so that one thread makes an artifact and the others find it made."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


class NamedLocks:
    """Locks by name, shared by the threads of one process. A lock exists from its first use on."""

    def __init__(self) -> None:
        self.locks: dict[str, threading.Lock] = {}

    @contextmanager
    def hold(self, *names: str) -> Iterator[None]:
        """Holds the locks of these names. They are taken in sorted order, so that no two threads wait in a circle."""
        with ExitStack() as held:
            for name in sorted(set(names)):
                held.enter_context(self.locks.setdefault(name, threading.Lock()))  # `setdefault` is atomic
            yield
