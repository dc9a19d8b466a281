"""Which part of a study may use the cluster when. A request is granted whole or not at all.

So no two parts can each hold half of what they need and wait for each other.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from seva_ray.core.errors import InputError

ResourceRequest = Mapping[str, float]
"""Amount of each resource, as Ray names them: `CPU`, `GPU`, and kinds of nodes."""

OnRelease = Callable[[str, ResourceRequest, float], None]
"""Called with each request that was given back: its purpose, its resources, and how long it was held in s."""


class ResourceQueue:
    """The cluster's resources, shared by the threads of one process.

    Requests are served in order. A later request may go first only if it needs no resource that an earlier one is
    waiting for.
    """

    def __init__(self, capacity: ResourceRequest, on_release: OnRelease = lambda purpose, request, seconds: None):
        self.free, self.on_release = dict(capacity), on_release
        self.waiting: list[dict[str, float]] = []
        self.changed = threading.Condition()
        """Protects `free` and `waiting`, and wakes the threads that wait when either has changed."""

    @contextmanager
    def hold(self, request: ResourceRequest, purpose: str = "") -> Iterator[None]:
        """Waits until the whole request is free and holds it. Any thread may call it."""
        mine = dict(request)
        with self.changed:
            self.waiting.append(mine)
            self.changed.wait_for(lambda: self._is_next(mine))
            self.waiting = [other for other in self.waiting if other is not mine]
            self._take(mine, +1)
        began = time.monotonic()
        try:
            yield
        finally:
            with self.changed:
                self._take(mine, -1)
            self.on_release(purpose, mine, time.monotonic() - began)

    def num_free(self, request: ResourceRequest) -> int:
        """How many more such requests could be granted now, after all waiting requests of other kinds are served."""
        with self.changed:
            left = dict(self.free)
            for other in self.waiting:
                for name, amount in other.items() if other != request else ():
                    left[name] = left.get(name, 0.0) - amount
        return max(0, int(min(left.get(name, 0.0) // amount for name, amount in request.items())))

    def _take(self, request: ResourceRequest, sign: int) -> None:
        """Takes (+1) or gives back (-1). The caller holds `changed`."""
        for name, amount in request.items():
            self.free[name] = self.free.get(name, 0.0) - sign * amount
        self.changed.notify_all()

    def _is_next(self, mine: dict[str, float]) -> bool:
        """Whether `mine` fits beside all earlier requests. The caller holds `changed`."""
        left = dict(self.free)
        for request in self.waiting:
            fits = all(left.get(name, 0.0) >= amount for name, amount in request.items())
            if request is mine:
                return fits
            for name, amount in request.items():
                left[name] = left.get(name, 0.0) - amount
        raise AssertionError("a request that waits is in the list")


def check_fits(what: str, request: ResourceRequest, capacity: ResourceRequest, lower: str = "") -> None:
    """`lower`: the job's option that makes the request smaller. Raises: InputError if the cluster could never grant the
    request."""
    for name, amount in request.items():
        if amount > capacity.get(name, 0.0):
            advice = f"; a lower {lower} needs less" if lower else ""
            found = capacity.get(name, 0.0)
            raise InputError(f"{what}: needs {amount:g} {name}, and the cluster has {found:g}{advice}")
