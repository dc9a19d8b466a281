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
