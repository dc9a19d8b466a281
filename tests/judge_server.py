"""A judge's endpoint on this machine: a real HTTP server that behaves as a test tells it to."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from seva_ray.benchmarks.judged.endpoint import Judge

KEY = "sk-a-very-secret-key-0123456789"


@dataclass
class Call:
    """One request that came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]


Handler = BaseHTTPRequestHandler
Behaviour = Callable[[Handler, Call, int], None]
"""Answers one call. The number is how many calls came before it."""


class JudgeServer:
    """A context manager that listens on 127.0.0.1 in a thread."""

    def __init__(self, behaviour: Behaviour):
        self.calls: list[Call] = []
        self.released = threading.Event()
        outer = self

        class OneRequest(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                call = Call(self.path, dict(self.headers), body)
                outer.calls.append(call)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as tests want
                    behaviour(self, call, len(outer.calls) - 1)

            do_GET = do_POST  # what a redirect that is followed becomes

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), OneRequest)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def judge(self, **fields: Any) -> Judge:
        """A judge at this server, without waits that no test needs."""
        settings = {"model": "judge-1", "num_repeats": 1, "timeout_s": 20.0, "first_wait_s": 0.0}
        return Judge(**settings | {"base_url": self.url} | fields)  # type: ignore[arg-type]


def send(handler: Handler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(text: str | None, finish_reason: str = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"model": "judge-1-0613", "choices": [choice], "usage": {"total_tokens": 12}}).encode()


def says(text: str | Callable[[str], str], finish_reason: str = "stop") -> Behaviour:
    """A judge that works: it always gives the same text, or one that follows from the prompt."""

    def behaviour(handler: Handler, call: Call, number: int) -> None:
        said = text if isinstance(text, str) else text(call.prompt)
        send(handler, 200, completion(said, finish_reason))

    return behaviour


def fails(status: int, message: str = "not now", **headers: str) -> Behaviour:
    def behaviour(handler: Handler, call: Call, number: int) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        send(handler, status, json.dumps({"error": {"message": message}}).encode(), named)

    return behaviour


def sends(body: bytes, **headers: str) -> Behaviour:
    def behaviour(handler: Handler, call: Call, number: int) -> None:
        send(handler, 200, body, {name.replace("_", "-"): value for name, value in headers.items()})

    return behaviour


def hangs_up(handler: Handler, call: Call, number: int) -> None:
    handler.close_connection = True


def drips(handler: Handler, call: Call, number: int) -> None:
    """Sends an endless body, one byte at a time, each well before any time-out of a socket."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(2000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.01)


def first(times: int, bad: Behaviour, then: Behaviour) -> Behaviour:
    """Behaves like `bad` for the first calls, and like `then` afterwards."""
    return lambda handler, call, number: (bad if number < times else then)(handler, call, number)
