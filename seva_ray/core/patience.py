"""Waiting for storage that does not answer: errors of the place are tried again, errors of the code never are.

The clients of object stores try again for some seconds. Here the whole operation is tried again for as long as
`--storage.wait-s` says, in the driver and in every worker, with a line each minute. Only the errors below count.
"""

import contextlib
import errno
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from seva_ray.core.durations import duration
from seva_ray.core.errors import ConfigError, InputError

P = ParamSpec("P")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

WAIT_VARIABLE = "SEVA_STORAGE_WAIT_S"
"""The environment variable by which workers know the limit."""
WAIT_S = 600.0
LINE_EVERY_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses between tries; after the last, the last again."""

REMOTE_IO = getattr(errno, "EREMOTEIO", errno.EIO)
"""macOS has no number of its own for it."""
OUTAGES = {
    errno.EIO, errno.ESTALE, errno.EBUSY, REMOTE_IO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EPIPE,
}  # fmt: skip
"""What a disk, a mount or a store's client says when the place does not answer. s3fs says EBUSY for a 503."""
HTTP_OUTAGES = {408, 429}
"""Statuses, besides those from 500, of a server that cannot answer now."""
CLIENTS = ("botocore", "aiohttp", "urllib3", "requests", "google", "gcsfs", "azure")
"""Libraries whose network errors have classes of their own, with the names below."""
CLIENT_OUTAGES = {
    "HTTPClientError", "ConnectionError", "ResponseParserError", "ClientConnectionError", "ClientPayloadError",
    "HTTPError", "Timeout", "TransportError", "ServiceResponseError", "IncompleteReadError",
}  # fmt: skip
HUB = ("huggingface_hub", "httpx", "httpx2")
"""Hugging Face's library and its client. Nothing waits for its hub."""
OFFLINE = "OfflineModeIsEnabled"
"""What Hugging Face's library raises for a place in its hub, which no job asks."""
CLIENT_REFUSED = {"EndpointConnectionError", "ClientConnectorError", "ServiceRequestError"}

OF_STORAGE = "This was raised by the storage of "
"""Begins a note on the error of a store's client. A traceback shows it, and it survives the way to the driver."""

sure = True
"""Whether the storage has answered this process before. At a job's start, a refusal is a mistake of the user's."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How long a job waits for the storage of its root."""

    wait_s: float = WAIT_S
    """Seconds after which a job ends, with one line, if the storage does not answer. A line each minute says so."""

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s < float("inf"):
            raise ConfigError(f"wait_s {self.wait_s}: must be 0 or more, and finite")

    def take_effect(self) -> None:
        """Set the limit for this process, and for the workers that it starts."""
        os.environ[WAIT_VARIABLE] = f"{self.wait_s:g}"


class StorageUnavailable(InputError):
    """The storage did not answer within the limit. This says nothing about the file that was asked for."""


@contextlib.contextmanager
def first_contact() -> Iterator[None]:
    """Inside, a refusal (403, no connection) is an error at once; an overloaded store (5xx) is waited for."""
    global sure
    sure = False
    try:
        yield
    finally:
        sure = True


def patient(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, tried again while its storage does not answer. Its first argument is the URI. It must do no harm
    when it is done twice. Raises: StorageUnavailable after the limit."""

    @functools.wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Result:
        return patiently(lambda: function(*args, **kwargs), str(args[0] if args else next(iter(kwargs.values()))))

    return tried


def patiently(work: Callable[[], Result], what: str, refusals: bool = True) -> Result:
    """The result of `work`, which is tried again while the storage does not answer. Without `refusals`, a 403 is not
    waited for: stores give it for a single missing file too. Raises: StorageUnavailable after the limit."""
    began = said = time.monotonic()
    for number in range(10**9):
        try:
            return work()
        except Exception as error:
            if not is_outage(error, refusals and sure):
                if classes_by(error, (*CLIENTS, *HUB)):
                    error.add_note(f"{OF_STORAGE}{what}")
                raise
            now, limit_s = time.monotonic(), limit()
            reason = reason_of(error)
            if now - began >= limit_s:
                raise StorageUnavailable(
                    f"{what}: the storage has not answered for {duration(limit_s)} ({reason}); run the same command "
                    "again to continue, or wait longer with --storage.wait-s"
                ) from error
            if not number or now - said >= LINE_EVERY_S:
                said = now
                log.warning("%s: the storage does not answer (%s): waiting up to %s", what, reason, duration(limit_s))
            time.sleep(min(PAUSES_S[min(number, len(PAUSES_S) - 1)], max(0.0, began + limit_s - now)))
    raise AssertionError("the limit ends the loop")


def limit() -> float:
    """How long storage is waited for, in seconds."""
    return float(os.environ.get(WAIT_VARIABLE, WAIT_S))


def unless_it_hangs(work: Callable[[], Result], what: str) -> Result:
    """The result of `work`, which runs in a thread of its own: nothing interrupts a read from a mount whose server is
    gone. The thread is left behind after the limit, which is a minute at least, and a line each minute says so. Raises:
    TimeoutError then, which is an outage; whatever `work` raises."""
    call: Future[Result] = Future()

    def run() -> None:
        try:
            call.set_result(work())
        except BaseException as error:
            call.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    limit_s = max(limit(), LINE_EVERY_S)
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return call.result(min(LINE_EVERY_S, max(0.0, deadline - time.monotonic())))
        except TimeoutError:
            if call.done():  # it has ended just now, or this error is its own
                return call.result()
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"a read has not ended within {duration(limit_s)}") from None
            log.warning("%s: a read has not ended: waiting up to %s", what, duration(limit_s))


def is_outage(error: BaseException, refusals: bool = True) -> bool:
    """Whether the error says that the place does not answer, and not that the request is wrong."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in HTTP_OUTAGES or (status == 403 and refusals)
    if OFFLINE in classes_by(error, HUB):
        return False
    kinds = classes_by(error, CLIENTS)
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)) or kinds & CLIENT_REFUSED:
        return refusals
    if kinds & CLIENT_OUTAGES or isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, PermissionError):
        return refusals and error.errno is None  # a disk gives a number, a store's client does not
    return isinstance(error, OSError) and error.errno in OUTAGES


def classes_by(error: BaseException, libraries: Collection[str]) -> set[str]:
    """The names of an error's classes that are of these libraries."""
    return {kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] in libraries}


def storage_line(error: BaseException) -> str | None:
    """A line for what a store's client says of a request, such as that there are no credentials; None for any other
    error."""
    uris = [note.removeprefix(OF_STORAGE) for note in getattr(error, "__notes__", ()) if note.startswith(OF_STORAGE)]
    return f"{uris[0]}: {reason_of(error)}" if uris else None


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that a store's client was given, if there is one."""
    for cause in (error, getattr(error, "__cause__", None)):
        response: Any = getattr(cause, "response", None)
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        found = found or getattr(cause, "status", None) or getattr(cause, "status_code", None)
        found = found or (getattr(cause, "code", None) if type(cause).__module__.startswith("gcsfs") else None)
        if isinstance(found, int) and 400 <= found < 600:
            return found
    return None


def reason_of(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())[:200]
