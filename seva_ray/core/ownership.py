"""Who is at work on an artifact: a mark that its owner renews. A second job waits, and goes on when the owner is gone.

Marks lie in `<root>/.owners`, one file for each artifact that is being made. A job that waits compares no clocks: a
mark that has not changed for EXPIRED_S, by the waiting job's own clock, has no owner any more. On the owner's machine
it is enough that its process has ended. A mark is taken over by creating the next number, which only one job can do.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from seva_ray.core.errors import UserError, line_of
from seva_ray.core.storage import names_in, read_bytes, remove, write_bytes, write_new

log = logging.getLogger(__name__)

RENEWED_EVERY_S = 10.0
EXPIRED_S = 90.0
"""Time without a change after which a mark has no owner. It is several renewals, as storage may be slow."""
LOOKS_EVERY_S = 1.0
LINE_EVERY_S = 60.0

Mark = tuple[int, bytes]
"""The number of a mark, and what it says."""

before_waiting: list[Callable[[], None]] = []
"""What this process does before it waits for another job: it gives back what that job may be waiting for."""


@contextmanager
def owned(root: str, names: Sequence[str]) -> Iterator[None]:
    """Own these artifacts, one after the other in the order of their names, so that no two jobs wait for each other.
    Wait while another job owns one of them: afterwards it may be complete."""
    with ExitStack() as stack:
        for name in sorted(set(names)):
            stack.enter_context(owned_alone(root, name))
        yield


@contextmanager
def owned_until(root: str, names: Sequence[str], done: Callable[[], bool]) -> Iterator[None]:
    """Own these artifacts until they are done, also if the block goes on after that: other jobs may need them."""

    def release(ended: threading.Event) -> None:
        with suppress(UserError):  # if the storage does not answer, the block says it
            while not ended.wait(LOOKS_EVERY_S):
                if done():
                    owners.close()
                    return

    with ExitStack() as owners:
        owners.enter_context(owned(root, names))
        with beside(release):
            yield


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """While the block runs, `work` runs in a thread. The event tells it that the block has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def owned_alone(root: str, name: str) -> Iterator[None]:
    about = identity_of_process() | {"token": uuid.uuid4().hex}
    number = taken(root, name, about)

    def renew(ended: threading.Event) -> None:
        count = 0
        while not ended.wait(RENEWED_EVERY_S):
            try:
                if max(numbers(root, name), default=0) > number:
                    log.warning("%s: another job has taken over, as this one did not show that it was at work", name)
                    return
                count += 1
                write_bytes(uri_of(root, name, number), text_of(about, count))
            except (UserError, OSError) as error:  # the job itself ends if it cannot write what it makes
                log.warning("%s: cannot show that this job is at work on it (%s)", name, line_of(error))

    try:
        with beside(renew):
            yield
    finally:
        remove(uri_of(root, name, number))


def taken(root: str, name: str, about: dict[str, Any]) -> int:
    """Wait until no other job owns the artifact, and own it. Returns the number of the mark."""
    seen: Mark | None = None
    since = said = time.monotonic()
    while True:
        found, now = current(root, name), time.monotonic()
        if found is None or is_dead(found[1]) or (found == seen and now - since >= EXPIRED_S):
            number = (found[0] if found else 0) + 1
            if write_new(uri_of(root, name, number), text_of(about, 0)):
                others = numbers(root, name) - {number, number - 1}
                if not others:
                    remove(uri_of(root, name, number - 1))
                    return number
                remove(uri_of(root, name, number))  # the last owner left, and another job came at the same moment
                time.sleep(LOOKS_EVERY_S * int(about["token"][:4], 16) / 2**16)
            continue
        if found != seen:
            for give_back in before_waiting if seen is None else ():
                give_back()
            if seen is None or now - said >= LINE_EVERY_S:
                log.warning("%s: %s is at work on it: waiting", name, owner_in(found[1]))
                said = now
            seen, since = found, now
        time.sleep(LOOKS_EVERY_S)


def uri_of(root: str, name: str, number: int) -> str:
    return f"{root.rstrip('/')}/.owners/{prefix_of(name)}{number:06d}.json"


def prefix_of(name: str) -> str:
    return f"{name.replace('/', '%2F')}%"


def numbers(root: str, name: str) -> set[int]:
    """The numbers of the artifact's marks."""
    found = (file for file in names_in(f"{root.rstrip('/')}/.owners") if file.endswith(".json"))
    rest = [file.removeprefix(prefix_of(name)) for file in found if file.startswith(prefix_of(name))]
    return {int(file.removesuffix(".json")) for file in rest if file.removesuffix(".json").isdecimal()}


def current(root: str, name: str) -> Mark | None:
    """The mark with the highest number, or None."""
    number = max(numbers(root, name), default=0)
    try:
        return (number, read_bytes(uri_of(root, name, number))) if number else None
    except FileNotFoundError:  # its owner has finished in this moment
        return None


def text_of(about: dict[str, Any], count: int) -> bytes:
    return json.dumps(about | {"renewed": count}).encode()


def identity_of_process() -> dict[str, Any]:
    """The host and process, and what tells whether another process can see it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), "machine": machine()}


def machine() -> str:
    """A text that is equal for all processes that see each other's numbers: it names a boot of a machine, and a
    namespace on it. Empty if it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process started, in ticks of its machine, as numbers are reused. Empty if it has ended, also if its parent
    has not noticed yet."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else rest[18]


def is_dead(text: bytes) -> bool:
    """Whether the mark's owner was a process of this machine that has ended."""
    about = parsed(text)
    return bool(about.get("machine")) and about["machine"] == machine() and started(about["pid"]) != about["started"]


def owner_in(text: bytes) -> str:
    about = parsed(text)
    return f"process {about.get('pid', '?')} on {about.get('host', 'another machine')}"


def parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
