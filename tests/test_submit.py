"""Jobs submitted with `ray job submit` to a head that `cluster/local.py` started, as `make submit` does."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.provenance import git_commit
from seva_ray.sources import ToyWorld
from seva_ray.stages.prepare import Prepare, prepare
from tests.chaos import driver
from tests.environment import pythonpath
from tests.ray_head import free_port

CHECKOUT = Path(__file__).parent.parent
PATIENCE_S = 300


@dataclass(frozen=True, kw_only=True)
class Head:
    """A home with a token, and a head with its own port and directory."""

    home: Path
    port: int
    directory: Path

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """cluster/local.py for this head."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": str(self.home), "PYTHONPATH": pythonpath()} | variables
        command = [sys.executable, str(CHECKOUT / "cluster" / "local.py")]
        command += ["--port", str(self.port), "--directory", str(self.directory), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("job", "submit", *words)

    def pid(self) -> int:
        return int((self.directory / "head.pid").read_text())

    def token(self) -> str:
        return (self.home / ".ray" / "auth_token").read_text()

    def processes(self) -> list[psutil.Process]:
        """The processes of the head, and of the jobs that run."""
        head = psutil.Process(self.pid())
        return [head, *head.children(recursive=True)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    (home / ".cache").symlink_to(Path.home() / ".cache")  # DeepSpeed's built operator
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        head = Head(home=home, port=free_port(), directory=Path(directory))
        started = head.run("start")
        try:
            assert started.returncode == 0, started.stderr
            yield head
        finally:
            processes = head.processes()
            stopped = head.run("stop")
            _, alive = psutil.wait_procs(processes, timeout=10)
            for process in alive:
                process.kill()
        assert stopped.returncode == 0, stopped.stderr
        assert alive == [], "the head's end is the end of all that it started"


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.05)


def job_id(output: str) -> str:
    found = re.search(r"raysubmit_\w+", output)
    assert found, output
    return found[0]


def test_the_token_is_made_for_its_owner_alone_and_a_head_that_runs_is_kept(head: Head):
    assert (head.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert head.directory.stat().st_mode & 0o777 == 0o700
    token, pid = head.token(), head.pid()
    assert head.run("start").returncode == 0
    assert (head.token(), head.pid()) == (token, pid)


def test_a_wrong_token_is_one_line_that_shows_no_token(head: Head):
    wrong = "f" * 64
    done = head.run("job", "list", RAY_AUTH_TOKEN=wrong)
    assert done.returncode == 1
    url = f"http://127.0.0.1:{head.port}"
    assert done.stderr == f"error: {url}: refuses the token of RAY_AUTH_TOKEN: it was started with another\n"


def test_a_taken_port_is_one_line(head: Head, tmp_path: Path):
    done = head.run("--directory", str(tmp_path / "another"), "start")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: port {head.port} of 127.0.0.1: is taken, .*--port\n", done.stderr), done.stderr


def test_a_relative_root_fails_in_one_line_and_so_does_the_submission(head: Head):
    done = head.submit("--", "python", "jobs/full.py")
    assert done.returncode == 1
    assert "error: root runs: would be lost with this job's copy of the working directory" in done.stdout
    assert "failed with exit code 2" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_records_name_the_submission_and_its_variables_but_no_value(head: Head, tmp_path: Path):
    variables = json.dumps({"env_vars": {"SOME_KEY": "hunter2"}})
    words = ["python", "jobs/prepare.py", "--root", str(tmp_path), "source:toy-world", "--source.num-images", "3"]
    done = head.submit("--runtime-env-json", variables, "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    record = Store(str(tmp_path)).find("prompts/toy").record
    assert record is not None
    assert record["git_commit"] == git_commit(CHECKOUT)
    assert record["submission"]["id"] == job_id(done.stdout)
    environment = record["submission"]["runtime_env"]
    assert re.fullmatch(r"gcs://_ray_pkg_\w+\.zip", environment["working_dir"])
    assert "SOME_KEY" in environment["env_vars"]
    assert "hunter2" not in json.dumps(record)


WHERE = """
import os, sys, time
import ray, seva_ray

@ray.remote
class Worker:
    def where(self):
        import seva_ray
        return seva_ray.__file__

ray.init(log_to_driver=False, logging_level="ERROR")
worker = Worker.remote()
print("driver", seva_ray.__file__)
print("worker", ray.get(worker.where.remote()))
open(sys.argv[1] + "/ready", "w").close()
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.1)
"""


def test_the_code_that_travels_is_the_code_that_runs_and_nothing_listens_beyond_loopback(head: Head, tmp_path: Path):
    sent = head.submit("--no-wait", "--", "python", "-c", WHERE, str(tmp_path))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    wait_for((tmp_path / "ready").exists)
    sockets = []
    for process in head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that Ray had started ahead ends at any time
            listening = [item for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN]
            sockets += [(process.name(), item.laddr.ip) for item in listening]
    (tmp_path / "go").touch()
    names = {name for name, _ in sockets}
    assert {"gcs_server", "raylet"} <= names, names
    assert [found for found in sockets if found[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []
    wait_for(lambda: "succeeded" in head.run("job", "status", job_id(sent.stdout)).stdout)
    log = head.run("job", "logs", job_id(sent.stdout)).stdout
    copy = rf"{head.directory}/ray/\S+/_ray_pkg_\w+/seva_ray/__init__.py"
    assert re.search(rf"^driver {copy}$", log, re.MULTILINE), log
    assert re.search(rf"^worker {copy}$", log, re.MULTILINE), log


@pytest.fixture
def slow_generation(toy_model: str, tmp_path: Path) -> list[str]:
    """A job of some seconds in units of 8 prompts, as it is submitted; it notes which prompts it has answered."""
    code = tmp_path / "code"
    shutil.copytree(CHECKOUT / "seva_ray", code / "seva_ray")
    shutil.copy(driver.__file__, code / "driver.py")
    prepare(Prepare(shard_size=8), Store(str(tmp_path / "runs")), "toy", ToyWorld(num_images=40))
    return [
        "--working-dir", str(code), "--", "python", "driver.py", "--root", str(tmp_path / "runs"), "--model", toy_model,
        "--views", "clean", "--generate.min-engines", "1", "--generate.max-engines",
        "1", "--generate.engine.seconds-per-request", "0.05", "--generate.engine.journal", str(tmp_path / "journal"),
    ]  # fmt: skip


def test_a_stopped_job_submitted_again_does_only_what_is_missing(
    head: Head, slow_generation: list[str], tmp_path: Path
):
    sent = head.submit("--no-wait", *slow_generation)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    responses = tmp_path / "runs" / "responses" / "toy" / "toy" / "clean"
    wait_for(lambda: len(list(responses.glob("shard-*.parquet"))) >= 2)
    stopped = head.run("job", "stop", job_id(sent.stdout))
    assert stopped.returncode == 0, stopped.stderr
    assert "was stopped" in stopped.stdout + stopped.stderr
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in responses.glob("shard-*.parquet")}
    store = Store(str(tmp_path / "runs"))
    num_units = store.find("prompts/toy").counts["num_shards"]
    assert 2 <= len(before) < num_units
    assert not (responses / "record.json").exists()
    again = head.submit(*slow_generation)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "succeeded" in again.stdout
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    left = num_units - len(before)
    assert f"generate with toy: {left} units to do" in again.stdout
    assert f"generate: {left}/{left} units" in again.stdout
    record = store.find("responses/toy/toy/clean").record
    assert record is not None
    assert record["submission"]["id"] == job_id(again.stdout) != job_id(sent.stdout)


def test_the_token_is_in_no_file_of_rays_and_on_no_command_line(head: Head):
    token = head.token().encode()
    files = [path for path in head.directory.rglob("*") if path.is_file()]
    assert any("job-driver" in path.name for path in files)
    assert [path for path in files if token in path.read_bytes()] == []
    assert [process for process in head.processes() if head.token() in " ".join(process.cmdline())] == []


@pytest.mark.slow
def test_the_main_job_stopped_in_its_midst_and_submitted_again_ends(head: Head, toy_model: str, tmp_path: Path):
    root = tmp_path / "runs"
    words = [
        "--", "python", "jobs/full.py", "toy", "--name", "again", "--root", str(root), "--model", toy_model,
        "--views", "diffusion-900",
        "--controls", "control-batch", "--benchmarks.toy-images", "10", "--prepare.shard-size", "32",
        "--train.num-pairs", "48", "--generate.decoding.max-new-tokens", "12",
        "source:toy-world", "--source.num-images", "30",
    ]  # fmt: skip
    sent = head.submit("--no-wait", *words)
    pattern = "responses/*/*/*/shard-*.parquet"
    wait_for(lambda: len(list(root.glob(pattern))) >= 2)
    head.run("job", "stop", job_id(sent.stdout))
    before = {path: path.stat().st_mtime_ns for path in root.glob(pattern)}
    assert not list(root.glob("policies/*"))
    done = head.submit(*words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for line in (
        r"^generate with toy: \d+ units to do",
        r"^generate: (\d+)/\1 units",
        r"^train again: ",
        r"^report: /",
    ):
        assert re.search(line, done.stdout, re.MULTILINE), done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made_by = {json.loads(path.read_text())["submission"]["id"] for path in root.rglob("record.json")}
    assert made_by == {job_id(sent.stdout), job_id(done.stdout)}
