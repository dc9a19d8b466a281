"""The cluster that a job starts for itself."""

import subprocess
import sys

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


def test_it_listens_on_loopback_only_and_has_metrics_there():
    done = subprocess.run([sys.executable, "-c", LISTENERS], capture_output=True, text=True, timeout=300)
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
