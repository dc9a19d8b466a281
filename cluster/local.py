"""A Ray head on this machine, on loopback and with a token, and the `ray job` commands for it.

    python cluster/local.py start
    python cluster/local.py job submit -- python jobs/full.py toy --root /data/runs
    python cluster/local.py job stop raysubmit_...
    python cluster/local.py stop

`job submit` sends this checkout, of which .rayignore says what travels, with its commit.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

from seva_ray.core.errors import InputError, UserError
from seva_ray.core.provenance import git_commit
from seva_ray.private.ray import CORE_SETTINGS

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEFAULT_TOKEN = Path.home() / ".ray" / "auth_token"
"""The file in which Ray looks for a token."""
START_S, STOP_S = 120, 30
HEAD_ONLY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux Ray else takes the machine's own address in place of loopback
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else it waits for half a minute at its end
}


def start(port: int, directory: Path) -> None:
    """Start the head, unless it runs already. Its logs, and copies of submitted code, are in `directory`, which only
    its owner can read."""
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        make_token()
    if head(directory) is None:
        claim(directory)
        launch(port, directory)
    check(port)
    print(f"ray: a head at {url(port)}, which `make stop-head` ends", file=sys.stderr)


def claim(directory: Path) -> None:
    """Make the directory empty, and readable only by this user. Raises: InputError if it belongs to another user."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise InputError(f"{directory}: is not yours; choose another with --directory")
    directory.chmod(0o700)
    shutil.rmtree(directory / "ray", ignore_errors=True)


def launch(port: int, directory: Path) -> None:
    from seva_ray.runtime import machine  # imports Ray, which the other commands do without

    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise InputError(f"port {port} of {HOST}: is taken, by another Ray or something else; choose with --port")
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--node-ip-address={HOST}", "--port=0",
        "--include-dashboard=true", f"--dashboard-host={HOST}", f"--dashboard-port={port}",
        "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}",
        "--disable-usage-stats", f"--temp-dir={directory / 'ray'}",
        f"--num-cpus={machine.num_cpus()}", f"--num-gpus={machine.num_gpus()}",
    ]  # fmt: skip
    log = directory / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=CORE_SETTINGS | environment(port) | HEAD_ONLY,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    (directory / "head.pid").write_text(str(process.pid))
    deadline = time.monotonic() + START_S
    while status(port) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            stop(directory)
            raise InputError(f"ray: the head did not start; see {log}")
        time.sleep(0.2)


def stop(directory: Path) -> None:
    """End this head and the processes that it started. Other Ray clusters on this machine go on."""
    pid = head(directory)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while head(directory) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    (directory / "head.pid").unlink()


def head(directory: Path) -> int | None:
    """The process id of this directory's head; None if it does not run."""
    try:
        pid = int((directory / "head.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ValueError):
        return None
    return pid if f"--temp-dir={directory / 'ray'}" in words else None


def job(port: int, words: list[str]) -> NoReturn:
    """Replace this process by `ray job ...`."""
    check(port)
    if words[:1] == ["submit"]:
        metadata = json.dumps({"git_commit": commit} if (commit := git_commit(CHECKOUT)) else {})
        words = ["submit", "--working-dir", str(CHECKOUT), "--metadata-json", metadata, *words[1:]]
    ray = str(BIN / "ray")
    os.execve(ray, [ray, "job", *words], environment(port))


def environment(port: int) -> dict[str, str]:
    """Environment of Ray's own commands: it has the token, this Python as `python`, and no proxy."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": url(port),
        "PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}",
        "no_proxy": ",".join(filter(None, [os.environ.get("no_proxy"), HOST])),
    }


def check(port: int) -> None:
    """Check that the head answers. Raises: InputError if it does not, or if it refuses this token."""
    match status(port):
        case 200:
            return
        case 401 | 403:
            place = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), None)
            reason = f"refuses the token of {place or DEFAULT_TOKEN}: it was started with another"
        case None:
            reason = "no head there; `make submit` or `cluster/local.py start` starts one"
        case other:
            reason = f"is not a Ray head (HTTP {other})"
    raise InputError(f"{url(port)}: {reason}")


def status(port: int) -> int | None:
    """The dashboard's answer to the token; None if nothing answers."""
    asked = urllib.request.Request(f"{url(port)}/api/jobs/", headers={"Authorization": f"Bearer {token()}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def token() -> str:
    """The token, where Ray finds it too."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or DEFAULT_TOKEN)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InputError(f"{path}: no token to read ({error.strerror})") from None


def make_token() -> None:
    """Once, in Ray's own place. `ray get-auth-token --generate` would let every user of the machine read it."""
    DEFAULT_TOKEN.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(DEFAULT_TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    DEFAULT_TOKEN.chmod(0o600)


def url(port: int) -> str:
    return f"http://{HOST}:{port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8265, help="of the dashboard, to which jobs are submitted")
    parser.add_argument(
        "--directory", type=Path, default=Path(f"/tmp/seva-ray-{os.getuid()}"), help="short: Ray's sockets"
    )
    parser.add_argument("command", choices=["start", "stop", "job"])
    parser.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    try:
        if asked.command == "start":
            start(asked.port, asked.directory)
        elif asked.command == "stop":
            stop(asked.directory)
        else:
            job(asked.port, asked.words)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
