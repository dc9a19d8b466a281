"""Locks by name: one thread makes an artifact, and no two threads wait for each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

from seva_ray.stages.study.named_locks import NamedLocks


def test_one_thread_at_a_time_holds_a_name_and_other_names_stay_free():
    locks, inside, most = NamedLocks(), [], []

    def make(number: int) -> None:
        with locks.hold("pairs"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(8) as threads, locks.hold("scores"):
        list(threads.map(make, range(8)))
    assert most == [1] * 8


def test_two_threads_that_name_the_same_artifacts_in_another_order_do_not_wait_for_each_other():
    locks, both = NamedLocks(), threading.Barrier(2)

    def make(names: tuple[str, ...]) -> None:
        both.wait(20)
        for _ in range(300):
            with locks.hold(*names, names[0]):
                time.sleep(0)

    threads = ThreadPoolExecutor(2)
    made = [threads.submit(make, names) for names in (("a", "b"), ("b", "a"))]
    done, waiting = wait(made, timeout=20)
    threads.shutdown(wait=False)
    assert not waiting
    for future in done:
        future.result()
