"""Claims on the cluster: whole or not at all, first come first served, and never two that wait for each other."""

import threading
import time
from collections.abc import Callable

import pytest

from seva_ray.core.errors import InputError
from seva_ray.stages.study.resource_requests import Lanes, ResourceRequest, check_fits


class Claimant:
    """A thread that holds a claim until it is let go."""

    def __init__(self, lanes: Lanes, claim: ResourceRequest):
        self.holds, self.may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, args=(lanes, claim), daemon=True)
        before = len(lanes.waiting)
        self.thread.start()
        until(lambda: self.holds.is_set() or len(lanes.waiting) > before)

    def run(self, lanes: Lanes, claim: ResourceRequest) -> None:
        with lanes.hold(claim):
            self.holds.set()
            self.may_end.wait(20)

    def end(self) -> None:
        self.may_end.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_claim_waits_until_all_of_it_is_free():
    lanes = Lanes({"CPU": 3})
    first, second = Claimant(lanes, {"CPU": 2}), Claimant(lanes, {"CPU": 2})
    assert first.holds.is_set()
    assert not second.holds.is_set()
    first.end()
    until(second.holds.is_set)
    second.end()
    assert lanes.free == {"CPU": 3}


def test_what_a_waiting_claim_wants_is_kept_for_it_and_the_rest_is_not():
    lanes = Lanes({"CPU": 3, "GPU": 1})
    holder, large = Claimant(lanes, {"CPU": 2}), Claimant(lanes, {"CPU": 3})
    small, other = Claimant(lanes, {"CPU": 1}), Claimant(lanes, {"GPU": 1})
    until(other.holds.is_set)
    assert not large.holds.is_set()
    assert not small.holds.is_set(), "else small ones could hold off a large one for ever"
    holder.end()
    until(large.holds.is_set)
    assert not small.holds.is_set()
    large.end()
    until(small.holds.is_set)
    small.end()
    other.end()
    assert lanes.free == {"CPU": 3, "GPU": 1}


def test_room_is_what_is_free_beside_what_others_wait_for():
    lanes = Lanes({"CPU": 5})
    holder = Claimant(lanes, {"CPU": 1})
    assert lanes.room({"CPU": 2}) == 2
    assert lanes.room({"CPU": 1, "GPU": 1}) == 0
    other, alike = Claimant(lanes, {"CPU": 5}), Claimant(lanes, {"CPU": 2})
    assert not alike.holds.is_set()
    assert lanes.room({"CPU": 2}) == 0, "the other comes first"
    assert lanes.room({"CPU": 5}) == 0
    holder.end()
    until(other.holds.is_set)
    other.end()
    until(alike.holds.is_set)
    assert lanes.room({"CPU": 2}) == 1
    alike.end()


def test_a_claim_is_given_back_when_its_work_fails():
    lanes = Lanes({"CPU": 1})
    with pytest.raises(ZeroDivisionError), lanes.hold({"CPU": 1}):
        raise ZeroDivisionError
    assert lanes.free == {"CPU": 1}


def test_a_claim_that_the_cluster_can_never_grant_is_refused_with_what_is_missing():
    with pytest.raises(InputError, match="a training run: needs 8 GPU, and the cluster has 4"):
        check_fits("a training run", {"GPU": 8}, {"GPU": 4, "CPU": 64})
    with pytest.raises(InputError, match="an engine: needs 1 GPU, and the cluster has 0"):
        check_fits("an engine", {"GPU": 1}, {"CPU": 64})
