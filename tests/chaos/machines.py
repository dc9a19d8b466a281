"""A Ray cluster of several machines on this one, and the ways in which its parts die."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
from ray._private import services
from ray.cluster_utils import Cluster

ENGINE_ACTOR = "ray::MapWorker(MapBatches(UnitWorker))"
ENCODING_TASK = "ray::MapBatches(encode_units)"
TRAINING_WORKER = "ray::RayTrainWorker"
VLLM_ENGINE = "VLLM::EngineCore"
PATIENCE_S = 300
"""What has not come after this long never will."""


def wait_for(what: Callable[[], Any], pause_s: float = 0.02) -> Any:
    """The first value that is true. `pause_s`: time between two looks, in seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(pause_s)
    return found


def address() -> str:
    """Where a job of another process looks for a cluster on this machine. In this process Ray may have another address,
    if a test has started a cluster that listens on loopback only."""
    return services.node_ip_address_from_perspective(None)


class Machines:
    """A head that only directs, and two machines with room for one engine each."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False, "node_ip_address": address()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self.added(), self.added()]

    def added(self) -> Any:
        return self.cluster.add_node(num_cpus=2, resources={"generation": 1}, node_ip_address=address())

    def processes(self, title: str) -> list[psutil.Process]:
        """Those of this cluster, and of no other on the host, whose title begins so."""
        return [process for node in self.cluster.list_all_nodes() for process in processes_on(node, title)]

    def kill_process(self, title: str, random: Random) -> None:
        """SIGKILL for one of them, as soon as there is one."""
        # A look at all processes of the machine takes as much CPU time as a row.
        random.choice(wait_for(lambda: self.processes(title), pause_s=0.2)).kill()

    def kill_node(self, random: Random) -> None:
        """A machine is gone without a word, and another one comes."""
        self.exchange(random.choice(self.workers))

    def exchange(self, node: Any) -> None:
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.append(self.added())

    def give_notice(self, node: Any, seconds: int) -> None:
        """Tell that a machine will be taken away, as a cloud does of a spot instance."""
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "drain-node", "--address", self.cluster.address, "--node-id", node.node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot instance"]
        subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)], check=True, capture_output=True)


def processes_on(node: Any, title: str) -> list[psutil.Process]:
    (raylet,) = node.all_processes["raylet"]
    found = []
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found
