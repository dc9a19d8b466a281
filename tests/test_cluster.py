"""The cluster that a job starts for itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seva_ray.runtime import cluster as runtime_cluster
from tests.environment import pythonpath

LISTENERS = """
import os, psutil, ray
from seva_ray.runtime.cluster import cluster, join

with cluster():
    join()
    ray.get(ray.remote(lambda: None).remote())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    log_relay = {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
    print(*sorted(log_relay), ray.nodes()[0]["MetricsExportPort"] > 0)
"""


def test_it_listens_on_loopback_only_and_has_metrics_there(tmp_path: Path):
    """Whatever a batch system has set: here a long path for temporary files, and the address of no cluster."""
    scratch = tmp_path / "job-1234567890.login-node.cluster.example" / "local"
    scratch.mkdir(parents=True)
    batch = os.environ | {"TMPDIR": str(scratch), "RAY_ADDRESS": ""}
    done = subprocess.run([sys.executable, "-c", LISTENERS], env=batch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *log_relay, has_metrics = done.stdout.split()
    assert set(log_relay) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert log_relay
    assert has_metrics == "True"


HELD_BACK = """
import os
from seva_ray.runtime.cluster import without_line
from seva_ray.runtime.progress import say

with without_line(b"Set ray log level"):
    os.write(2, b"Set ray log level\\nanother line of Ray's core\\n")
    say("a heartbeat")
say("afterwards")
"""


def test_lines_of_ray_s_core_are_held_back_at_its_start_but_no_heartbeat():
    done = subprocess.run([sys.executable, "-c", HELD_BACK], capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines() == ["a heartbeat", "another line of Ray's core", "afterwards"]


def test_what_still_runs_ends_before_ray_does(monkeypatch: pytest.MonkeyPatch):
    import ray

    ended, joined = list[str](), iter([False, True])
    monkeypatch.setattr(runtime_cluster, "connected", lambda: next(joined))
    monkeypatch.setattr(runtime_cluster, "before_shutdown", [lambda: ended.append("dataset"), lambda: 1 // 0])
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    with pytest.raises(ZeroDivisionError), runtime_cluster.cluster():
        ended.append("job")
    assert ended == ["job", "dataset", "Ray"]


FAILS = """
import threading
from dataclasses import dataclass
from seva_ray.runtime.actors import rows_of
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster, join

threading.excepthook = lambda failed: print(failed.thread.name, "fails with", failed.exc_type.__name__, flush=True)

@dataclass(frozen=True, kw_only=True)
class Job:
    pass

def slow(batch):
    import time
    time.sleep(1)
    return batch

def main(config):
    with cluster():
        join()
        import ray.data
        rows = rows_of(lambda: ray.data.range(100).map_batches(slow, batch_size=1, num_cpus=0), "", "")
        next(rows)
        held.append(rows)  # as an error holds the frames of those who asked for rows
        raise KeyboardInterrupt

held = []
run(main, {"job": Job()}, "Fails while a dataset runs.")
"""


@pytest.mark.slow
def test_a_job_that_stops_while_a_dataset_runs_says_one_line_and_starts_no_other_cluster():
    done = subprocess.run(
        [sys.executable, "-c", FAILS],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": pythonpath()},
    )
    lines = [line for line in done.stderr.splitlines() if not line.endswith(" so far")]
    assert (done.returncode, done.stdout, lines) == (130, "", ["interrupted: run the same command again to continue"])
