"""The work on one row has a limit of CPU time and memory, in any thread, and nothing else is cut short by it."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seva_ray.core import row_limit
from seva_ray.core.errors import InputError
from seva_ray.core.row_limit import within

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{% for i in range(99999) %}{{ 'x' * (9999 + i) }}{% endfor %}"
"""A text of 6 GB."""


def rendered(template: str) -> str:
    return ImmutableSandboxedEnvironment().from_string(template).render()


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_template_that_does_not_end_for_a_row_is_that_row_s_error_and_the_next_row_works(in_main_thread: bool):
    def rows() -> tuple[str, str]:
        with pytest.raises(InputError) as caught:
            within(0.3, lambda: rendered(LOOPS))
        return str(caught.value), within(5.0, lambda: rendered("{{ 1 + 1 }}"))

    if in_main_thread:
        found = rows()
    else:
        with ThreadPoolExecutor(1) as others:
            found = others.submit(rows).result()
    assert found == ("the row takes more than 0.3 s of CPU time", "2")
    assert not row_limit.running


def test_a_template_that_grows_is_ended_by_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_limit, "LIMIT_BYTES", 2**26)
    monkeypatch.setattr(row_limit, "LOOKS_EVERY_S", 0.01)
    if row_limit.memory_taken() == 0:
        pytest.skip("this system does not tell the memory of a process")
    with pytest.raises(InputError, match=r"^the row takes more than 0\.0625 GiB of memory$"):
        within(20.0, lambda: rendered(GROWS))


def test_a_row_that_waits_for_a_busy_machine_or_disk_is_no_row_that_takes_too_long():
    def waits() -> str:
        time.sleep(0.4)
        return "done"

    assert within(0.05, waits) == "done"


def test_an_error_of_the_work_stays_and_another_thread_is_left_alone():
    with pytest.raises(KeyError):
        within(1.0, lambda: os.environ["NO SUCH VARIABLE"])
    ended = threading.Event()

    def other() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.5:
            pass
        ended.set()

    beside = threading.Thread(target=other)
    beside.start()
    with pytest.raises(InputError):
        within(0.1, lambda: rendered(LOOPS))
    beside.join()
    assert ended.is_set()


def test_work_that_ends_at_the_very_moment_of_its_limit_leaves_no_exception_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_limit, "LOOKS_EVERY_S", 0.0005)

    def busy(cpu_s: float) -> None:
        began = time.thread_time()
        while time.thread_time() - began < cpu_s:
            pass

    for _ in range(100):
        with contextlib.suppress(InputError):
            within(0.002, lambda: busy(0.002))
        sum(range(100))  # an exception that was left behind would come here


def test_a_process_that_was_forked_has_limits_too():
    program = (
        "import os\nfrom seva_ray.core.errors import InputError\nfrom seva_ray.core.row_limit import within\n"
        "def endless():\n    while True:\n        pass\n"
        "within(1.0, int)\nchild = os.fork()\n"
        "try:\n    within(0.1, int if child else endless)\nexcept InputError:\n    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "7\n", done.stderr
