"""A Ray head of a test's own: on loopback, with a token, in a directory of its own.

It is ended with its process group. Never `ray stop`: that ends every Ray on the machine.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seva_ray.private.ray import CORE_SETTINGS
from seva_ray.runtime import machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_head(port: int, *options: str, **environment: str) -> Iterator[dict[str, str]]:
    """The environment to join it with. `options` of `ray start`, `environment` of the head and its workers."""
    joining = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    joining["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
        "0"  # else Ray takes the machine's address where it is given 127.0.0.1
    )
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
                f"--port={port}", "--object-store-memory=200000000", "--include-dashboard=false",
                "--disable-usage-stats", f"--temp-dir={directory}/t",
                f"--num-gpus={machine.num_gpus()}", *options,
            ],
            env=os.environ | CORE_SETTINGS | joining | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(port, "the head")
            yield {"RAY_ADDRESS": f"127.0.0.1:{port}"} | joining
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(port: int, what: str) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"{what} did not start in a minute")
