"""Who may use the cluster when: claims that are granted whole or not at all, so that no two can wait for each other."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from seva_ray.core.errors import InputError

ResourceRequest = Mapping[str, float]
"""Amount of each resource."""

Note = Callable[[str, ResourceRequest, float], None]
"""Is told of a claim that was held: what for, and for how long, s."""


class Lanes:
    """The cluster's resources, shared by the threads of one process. First come, first served; a later claim may pass
    an earlier one only by what that does not want."""

    def __init__(self, capacity: ResourceRequest, note: Note = lambda what, claim, seconds: None):
        self.free, self.note = dict(capacity), note
        self.waiting: list[dict[str, float]] = []
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, claim: ResourceRequest, what: str = "") -> Iterator[None]:
        """Waits until all of the claim is free, and holds it. `what` it is for."""
        mine = dict(claim)
        with self.changed:
            self.waiting.append(mine)
            self.changed.wait_for(lambda: self.is_next(mine))
            self.waiting = [other for other in self.waiting if other is not mine]
            self.take(mine, +1)
        began = time.monotonic()
        try:
            yield
        finally:
            with self.changed:
                self.take(mine, -1)
            self.note(what, mine, time.monotonic() - began)

    def room(self, claim: ResourceRequest) -> int:
        """How many more such claims are free, beside what is waited for by others than such claims."""
        with self.changed:
            left = dict(self.free)
            for other in self.waiting:
                for name, amount in other.items() if other != claim else ():
                    left[name] = left.get(name, 0.0) - amount
        return max(0, int(min(left.get(name, 0.0) // amount for name, amount in claim.items())))

    def take(self, claim: ResourceRequest, sign: int) -> None:
        for name, amount in claim.items():
            self.free[name] = self.free.get(name, 0.0) - sign * amount
        self.changed.notify_all()

    def is_next(self, mine: dict[str, float]) -> bool:
        left = dict(self.free)
        for claim in self.waiting:
            fits = all(left.get(name, 0.0) >= amount for name, amount in claim.items())
            if claim is mine:
                return fits
            for name, amount in claim.items():
                left[name] = left.get(name, 0.0) - amount
        raise AssertionError("a claim that waits is in the list")


def check_fits(what: str, claim: ResourceRequest, capacity: ResourceRequest) -> None:
    """Raises: InputError where the cluster could never grant the claim."""
    for name, amount in claim.items():
        if amount > capacity.get(name, 0.0):
            raise InputError(f"{what}: needs {amount:g} {name}, and the cluster has {capacity.get(name, 0.0):g}")
