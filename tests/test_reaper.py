"""When a driver is killed, what it started ends with it, also what does not notice by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from seva_ray.runtime.reaper import MARK, marked, reaped

REPOSITORY = Path(__file__).parent.parent
LEAVES_A_CHILD = """
import os, subprocess, sys, time
from seva_ray.runtime.reaper import reaped, started
with reaped():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
print(child.pid, other.pid, started[os.getpid()][1].pid, flush=True)
{then}
"""
JOINS = """
import ray, time
from seva_ray.runtime.cluster import join
join()
print("joined", flush=True)

@ray.remote
def sleeps():
    time.sleep(120)

ray.get([sleeps.remote() for _ in range(2)])
"""


def started(script: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )


def ends(process: psutil.Process, within_s: float) -> bool:
    try:
        process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize("then", ["time.sleep(120)", ""], ids=["killed", "at its end"])
def test_what_a_driver_started_for_its_cluster_ends_with_it_and_nothing_else_does(then):
    driver = started(LEAVES_A_CHILD.format(then=then))
    assert driver.stdout
    child, other, reaper = (psutil.Process(int(word)) for word in driver.stdout.readline().split())
    try:
        if then:
            driver.kill()
        driver.wait()
        assert ends(child, within_s=60), "the child is left"
        assert ends(reaper, within_s=60), "the reaper is left"
        assert other.is_running()
    finally:
        for left in (child, other):
            if left.is_running():
                left.kill()


def test_the_environment_is_as_before_and_a_process_has_one_reaper(monkeypatch):
    monkeypatch.setenv(MARK, "of another driver")
    before, found = dict(os.environ), []
    for _ in range(2):
        with reaped():
            found.append(os.environ[MARK])
        assert os.environ == before
    assert found[0] == found[1] != "of another driver"
    assert not marked(found[0])


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 2.0, 10.0])
def test_nothing_of_ray_is_left_10_s_after_a_driver_was_killed(after_s):
    """Counted from the moment in which its raylet was there."""
    driver = psutil.Process(started(JOINS).pid)
    while not any(child.name() == "raylet" for child in driver.children(recursive=True)):
        time.sleep(0.05)
    time.sleep(after_s)
    (mark,) = {child.environ()[MARK] for child in driver.children(recursive=True) if MARK in child.environ()}
    assert marked(mark)
    driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, [psutil.Process(process).cmdline() for process in left]
