"""A job that finds another at work on the same artifact waits for it, and goes on when that job is gone."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from seva_ray.core import ownership
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.ownership import identity_of_process, is_dead, numbers, owned, owned_until, started, uri_of
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.records import Prompt
from seva_ray.core.storage import read_bytes, write_bytes
from seva_ray.stages.prepare import Prepare, prepare
from tests.s3_server import s3_bucket

NAME = "prompts/p"
ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": "1", "machine": "another one"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LOOKS_EVERY_S", 0.02)
    monkeypatch.setattr(ownership, "RENEWED_EVERY_S", 0.05)


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path)
        return
    with s3_bucket("ownership") as uri:
        yield f"{uri}/{tmp_path.name}"


def mark(root: str, number: int, **about: Any) -> None:
    write_bytes(uri_of(root, NAME, number), json.dumps(ELSEWHERE | about).encode())


def test_no_two_jobs_own_an_artifact_at_once_and_no_mark_is_left(root: str):
    inside, most = [0], [0]

    def job(_: int) -> None:
        with owned(root, [NAME, "prompts/q"]):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    with ThreadPoolExecutor(3) as jobs:
        list(jobs.map(job, range(3)))
    assert most == [1]
    assert numbers(root, NAME) == set()


def test_jobs_that_name_the_same_artifacts_in_another_order_do_not_wait_for_each_other_for_ever(tmp_path: Path):
    def job(names: list[str]) -> None:
        with owned(str(tmp_path), names):
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as jobs:
        list(jobs.map(job, [["a", "b"], ["b", "a"]] * 2, timeout=120))


def test_what_is_done_is_given_up_though_the_block_that_owns_it_goes_on(tmp_path: Path):
    done, deadline = threading.Event(), time.monotonic() + 60
    with owned_until(str(tmp_path), [NAME, "prompts/q"], done.is_set):
        assert numbers(str(tmp_path), NAME)
        done.set()
        while numbers(str(tmp_path), NAME) or numbers(str(tmp_path), "prompts/q"):
            assert time.monotonic() < deadline, "they are kept"
            time.sleep(0.02)
    with owned_until(str(tmp_path), [NAME], lambda: False):
        assert numbers(str(tmp_path), NAME)
    assert not numbers(str(tmp_path), NAME)


def test_a_mark_of_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = identity_of_process()
    about = here | {"pid": process.pid, "started": started(process.pid)}
    assert here["machine"]
    assert not is_dead(json.dumps(about).encode())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but is not gone from the list
    for number in (7, 9):
        mark(str(tmp_path), number, **about)
        with owned(str(tmp_path), [NAME]):
            assert numbers(str(tmp_path), NAME) == {number + 1}
        process.communicate()


ALSO = pytest.mark.slow  # a clock behind on a disk and one ahead in an object store, by default


@pytest.mark.parametrize(
    ("root", "clock_s"),
    [
        ("disk", -600),
        pytest.param("disk", 600, marks=ALSO),
        pytest.param("s3", -600, marks=ALSO),
        ("s3", 600),
    ],
    indirect=["root"],
)
def test_a_mark_of_another_machine_is_taken_over_when_it_has_not_changed_for_long(
    root: str, clock_s: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(ownership, "EXPIRED_S", 3.0)
    mark(root, 1, renewed=0, time=time.time() + clock_s)
    renewing = threading.Event()

    def renew() -> None:
        for count in range(1, 15):
            mark(root, 1, renewed=count, time=time.time() + clock_s)
            time.sleep(0.3)
        renewing.set()

    thread = threading.Thread(target=renew)
    thread.start()
    with owned(root, [NAME]):
        assert renewing.is_set(), "the owner was still at work"
        assert numbers(root, NAME) == {2}
    thread.join()
    assert f"{NAME}: process 1 on elsewhere is at work on it: waiting" in caplog.text


def test_an_owner_renews_its_mark_and_says_so_if_another_job_has_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with owned(str(tmp_path), [NAME]):
        uri = uri_of(str(tmp_path), NAME, 1)
        wait_for(lambda: json.loads(read_bytes(uri))["renewed"] > 1)
        mark(str(tmp_path), 2)
        wait_for(lambda: "another job has taken over" in caplog.text)
    assert numbers(str(tmp_path), NAME) == {2}


@pytest.mark.parametrize("error", [StorageUnavailable("p: no answer for 10 min"), OSError(28, "No space left")])
def test_an_owner_that_cannot_renew_its_mark_says_so_in_one_line_and_tries_again(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A traceback of a thread would be all that the user sees."""
    write, fails, tracebacks = write_bytes, threading.Event(), list[Any]()

    def fail(uri: str, data: bytes) -> None:
        if fails.is_set():
            raise error
        write(uri, data)

    monkeypatch.setattr(ownership, "write_bytes", fail)
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    fails.set()
    with owned(str(tmp_path), [NAME]):
        wait_for(lambda: f"{NAME}: cannot show that this job is at work on it ({error})" in caplog.text)
        fails.clear()
        uri = uri_of(str(tmp_path), NAME, 1)
        wait_for(lambda: json.loads(read_bytes(uri))["renewed"] > 0)
    assert not tracebacks


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Prompts that take a while to read. It counts how often they are read."""

    kind: ClassVar[str] = "Slow"
    image_root: ClassVar[None] = None
    reads: ClassVar[list[int]] = []

    def prompts(self) -> Iterator[Prompt]:
        self.reads.append(1)
        for number in range(5):
            time.sleep(0.05)
            yield Prompt(prompt_id=str(number), image_id="i", question="what?", source="slow", image_bytes=b"1")


def test_two_jobs_of_one_recipe_read_the_source_once(root: str):
    def job(_: int) -> Artifact:
        return prepare(Prepare(shard_size=2), Store(root), "p", Slow())

    Slow.reads.clear()
    with ThreadPoolExecutor(2) as jobs:
        first, second = jobs.map(job, range(2))
    assert first.record == second.record
    assert len(Slow.reads) == 1


def test_a_job_that_fails_leaves_no_mark(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), owned(str(tmp_path), [NAME]):
        raise ZeroDivisionError
    assert numbers(str(tmp_path), NAME) == set()
