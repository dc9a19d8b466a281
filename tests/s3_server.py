"""An S3 server of our own on loopback, moto's, with one bucket; processes that are started meanwhile reach it too."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer


@dataclass
class Faults:
    """Answers all requests with an error while `status` is one, and the next `left` requests with 503, or as `way`."""

    app: Any
    status: int | None = None
    left: int = 0
    way: str = ""
    """What happens to the next `left` requests: a status with a web page, such as `429 html`; or half of a body that
    says that it is whole (`cut`), or before the connection is reset (`reset`), of those that read."""
    refused: int = 0
    """Number of requests that were answered with an error."""
    random: Random | None = None
    """Draws which requests fail or wait, after `disturb`."""
    away: tuple[float, float] = (0.0, 0.0)
    """The time during which all requests are answered with 503: its begin and its end on the monotonic clock, in s."""

    def disturb(self, random: Random, away_at: float, away_s: float) -> None:
        """From now on 4 % of the requests fail, 2 % are late, and once all fail for a while."""
        self.random, self.away = random, (away_at, away_at + away_s)

    def rest(self) -> None:
        """No request fails any more."""
        self.random, self.away = None, (0.0, 0.0)

    def reset(self) -> None:
        """Make all as it was at the beginning, except for what `disturb` draws."""
        self.status, self.left, self.refused, self.way = None, 0, 0, ""

    def drawn(self) -> int | None:
        if self.random is None:
            return None
        if self.away[0] <= time.monotonic() < self.away[1]:
            return 503
        chance = self.random.random()
        if chance > 0.98:
            time.sleep(1.0)
        return 503 if chance < 0.03 else 500 if chance < 0.04 else None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        status = self.status or (503 if self.left else self.drawn())
        breaks = self.way in ("cut", "reset")
        if status is None or (breaks and environ["REQUEST_METHOD"] != "GET"):
            return self.app(environ, start_response)
        self.left, self.refused = max(0, self.left - 1), self.refused + 1
        if breaks:
            return self.broken(environ, start_response)
        if self.way:
            start_response(f"{self.way.split()[0]} Odd", [("Content-Type", "text/html")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"<html><body><h1>Odd <b>page</h1></body>"]
        code = {403: "AccessDenied", 503: "SlowDown"}.get(status, "Odd")
        start_response(f"{status} {code}", [("Content-Type", "application/xml")])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []  # a body would be taken for the next answer
        return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]

    def broken(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        """The first half of the answer, whose headers are those of all of it."""
        begun: list[Any] = []
        body = b"".join(self.app(environ, lambda *given: begun.extend(given)))
        headers = [(name, value) for name, value in begun[1] if name.lower() != "content-length"]
        start_response(begun[0], [*headers, ("Content-Length", str(len(body)))])
        yield body[: len(body) // 2]
        if self.way == "reset":
            raise ConnectionResetError


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """The bucket's URI."""
    with faulty_bucket(name) as (uri, _):
        yield uri


@contextmanager
def impatient_bucket(name: str) -> Iterator[tuple[str, Faults]]:
    """The same, for clients that do not try again by themselves, which takes seconds. So each error reaches us."""
    with pytest.MonkeyPatch.context() as patch, faulty_bucket(name) as found:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield found


@contextmanager
def faulty_bucket(name: str) -> Iterator[tuple[str, Faults]]:
    """The bucket's URI, and what makes its server answer with errors."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    assert server._server is not None
    faults = Faults(server._server.app)
    server._server.app = faults
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", name)
        patch.setenv("AWS_SECRET_ACCESS_KEY", name)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().makedirs(name, exist_ok=True)  # moto keeps it while the process lives
        yield f"s3://{name}", faults
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
