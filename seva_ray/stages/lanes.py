"""Who may use the cluster when: claims that are granted whole or not at all, so that no two can wait for each other."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from seva_ray.errors import InputError

Claim = Mapping[str, float]
"""Amount of each resource."""


class Lanes:
    """The cluster's resources, shared by the threads of one process. First come, first served; a later claim may pass
    an earlier one only by what that does not want."""

    def __init__(self, capacity: Claim):
        self.free = dict(capacity)
        self.waiting: list[dict[str, float]] = []
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[None]:
        """Waits until all of the claim is free, and holds it."""
        mine = dict(claim)
        with self.changed:
            self.waiting.append(mine)
            self.changed.wait_for(lambda: self.is_next(mine))
            self.waiting = [other for other in self.waiting if other is not mine]
            self.take(mine, +1)
        try:
            yield
        finally:
            with self.changed:
                self.take(mine, -1)

    def take(self, claim: Claim, sign: int) -> None:
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


def check_fits(what: str, claim: Claim, capacity: Claim) -> None:
    """Raises: InputError where the cluster could never grant the claim."""
    for name, amount in claim.items():
        if amount > capacity.get(name, 0.0):
            raise InputError(f"{what}: needs {amount:g} {name}, and the cluster has {capacity.get(name, 0.0):g}")
