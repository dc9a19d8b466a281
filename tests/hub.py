"""A model hub on loopback that speaks as much of the real one's protocol as a push needs (without Xet)."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Request:
    line: str
    """Method and path."""
    authorization: str | None
    headers: str
    body: bytes


@dataclass(kw_only=True)
class Hub:
    """What was asked of it, and what it has."""

    fails_at: str = ""
    """Part of the path of the requests that fail; empty: none."""
    status: int | None = None
    """What those are answered with; None: the connection is closed without a word."""
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    """The contents of large files, by their SHA-256."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What has been committed."""

    def answer(self, path: str, body: bytes) -> dict[str, Any] | None:
        """None where there is no such path."""
        action = path.rsplit("/", 2)[-2:]
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.url}/user/name"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if action[0] == "preupload":
            names = [item["path"] for item in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            files = [{"path": n, "uploadMode": modes[n.endswith(".safetensors")], "shouldIgnore": False} for n in names]
            return {"files": files}
        if path.endswith(".git/info/lfs/objects/batch"):
            items = json.loads(body)["objects"]
            return {"objects": [i | {"actions": {"upload": {"href": f"{self.url}/large/{i['oid']}"}}} for i in items]}
        if action[0] == "large":
            self.large[action[1]] = body
            return {}
        if action[0] == "commit":
            self.commit([json.loads(line) for line in body.splitlines()])
            return {"commitUrl": f"{self.url}/user/name/commit/0", "commitOid": "0" * 40}
        return None

    def commit(self, operations: list[dict[str, Any]]) -> None:
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            if operation["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size, chunks = int(self.headers.get("Content-Length", 0)), []
            if self.headers.get("Transfer-Encoding") == "chunked":
                while length := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(length))
                    self.rfile.readline()
                self.rfile.readline()
            body = b"".join(chunks) or self.rfile.read(size)
            line = f"{self.command} {self.path}"
            hub.requests.append(Request(line, self.headers["Authorization"], str(self.headers), body))
            path = self.path.partition("?")[0]
            status, answer = 200, None
            if hub.fails_at and hub.fails_at in path:
                if hub.status is None:
                    self.close_connection = True
                    return
                status, answer = hub.status, {"error": "not today"}
            elif (answer := hub.answer(path, body)) is None:
                status, answer = 404, {"error": "no such path"}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status != 200:
                self.send_header("X-Error-Message", answer["error"])
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
