"""Requests for the cluster: granted whole or not at all, in order, and no two wait for each other."""

import threading
import time
from collections.abc import Callable

import pytest

from seva_ray.core.errors import InputError
from seva_ray.stages.study.resource_queue import ResourceQueue, ResourceRequest, check_fits


class Holder:
    """A thread that holds a request until it is told to end."""

    def __init__(self, resources: ResourceQueue, request: ResourceRequest):
        self.holds, self.may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, args=(resources, request), daemon=True)
        before = len(resources.waiting)
        self.thread.start()
        until(lambda: self.holds.is_set() or len(resources.waiting) > before)

    def run(self, resources: ResourceQueue, request: ResourceRequest) -> None:
        with resources.hold(request):
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


def test_a_request_waits_until_all_of_it_is_free():
    resources = ResourceQueue({"CPU": 3})
    first, second = Holder(resources, {"CPU": 2}), Holder(resources, {"CPU": 2})
    assert first.holds.is_set()
    assert not second.holds.is_set()
    first.end()
    until(second.holds.is_set)
    second.end()
    assert resources.free == {"CPU": 3}


def test_what_a_waiting_request_needs_is_kept_for_it_and_the_rest_is_not():
    resources = ResourceQueue({"CPU": 3, "GPU": 1})
    holder, large = Holder(resources, {"CPU": 2}), Holder(resources, {"CPU": 3})
    small, other = Holder(resources, {"CPU": 1}), Holder(resources, {"GPU": 1})
    until(other.holds.is_set)
    assert not large.holds.is_set()
    assert not small.holds.is_set(), "otherwise small requests could hold off a large one for ever"
    holder.end()
    until(large.holds.is_set)
    assert not small.holds.is_set()
    large.end()
    until(small.holds.is_set)
    small.end()
    other.end()
    assert resources.free == {"CPU": 3, "GPU": 1}


def test_the_free_number_leaves_out_what_other_requests_wait_for():
    resources = ResourceQueue({"CPU": 5})
    holder = Holder(resources, {"CPU": 1})
    assert resources.num_free({"CPU": 2}) == 2
    assert resources.num_free({"CPU": 1, "GPU": 1}) == 0
    other, alike = Holder(resources, {"CPU": 5}), Holder(resources, {"CPU": 2})
    assert not alike.holds.is_set()
    assert resources.num_free({"CPU": 2}) == 0, "the earlier request comes first"
    assert resources.num_free({"CPU": 5}) == 0
    holder.end()
    until(other.holds.is_set)
    other.end()
    until(alike.holds.is_set)
    assert resources.num_free({"CPU": 2}) == 1
    alike.end()


def test_resources_are_given_back_when_the_work_fails():
    resources = ResourceQueue({"CPU": 1})
    with pytest.raises(ZeroDivisionError), resources.hold({"CPU": 1}):
        raise ZeroDivisionError
    assert resources.free == {"CPU": 1}


def test_a_request_that_the_cluster_can_never_grant_is_refused_with_what_is_missing():
    line = "a training run: needs 8 GPU, and the cluster has 4; a lower --train.num-workers needs less"
    with pytest.raises(InputError, match=f"^{line}$"):
        check_fits("a training run", {"GPU": 8}, {"GPU": 4, "CPU": 64}, "--train.num-workers")
    with pytest.raises(InputError, match=r"^an engine: needs 1 GPU, and the cluster has 0$"):
        check_fits("an engine", {"GPU": 1}, {"CPU": 64})
