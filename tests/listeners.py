"""Where a job's processes listen: every address that one of them was seen to listen at while the job ran."""

import contextlib
import subprocess
import threading
from collections.abc import Sequence

import psutil

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
LOOKS_EVERY_S = 1.0

Listener = tuple[str, str]
"""The name of a process, and an address."""


def run_watched(words: Sequence[str], timeout_s: float = 600) -> tuple[subprocess.CompletedProcess, set[Listener]]:
    """Run a command. Returns how it ended, and where it and all that it started have listened."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found: set[Listener] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOKS_EVERY_S):
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                for part in [parent, *parent.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):  # it has just ended
                        sockets = part.net_connections("inet")
                        found.update((part.name(), item.laddr.ip) for item in sockets if item.status == "LISTEN")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        out, error = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        ended.set()
        thread.join()
    return subprocess.CompletedProcess(words, process.returncode, out, error), found


def beyond_loopback(listeners: set[Listener]) -> set[Listener]:
    return {listener for listener in listeners if listener[1] not in LOOPBACK}
