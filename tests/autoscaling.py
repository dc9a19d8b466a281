"""A Ray cluster of fake nodes on this machine that the autoscaler adds and removes, as a cloud's would be.

Not `ray.cluster_utils.AutoscalingCluster`: that one runs `ray stop --force`, which ends every Ray on the machine.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.environment import pythonpath
from tests.ray_head import free_port, ray_head

MEMORY = 2 * 2**30
"""That a node of any type has, at the least: the autoscaler adds nodes only for what their type declares."""

HEAD_NODE_ID = "f" * 51 + "00000"


@dataclass(frozen=True, kw_only=True)
class Autoscaling:
    """A cluster that grows."""

    address: str
    environment: dict[str, str]
    """The environment variables with which a process joins it."""

    def nodes(self, node_type: str) -> dict[str, psutil.Process]:
        """The raylet of each node of that type, by the node's id."""
        found = {}
        for process in psutil.process_iter():
            try:
                if process.name() == "raylet" and f"--gcs-address={self.address}" in process.cmdline():
                    environment = process.environ()
                    if environment.get("RAY_NODE_TYPE_NAME") == node_type:
                        found[environment["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]] = process
            except psutil.Error:  # it has just ended
                continue
        return found

    def give_notice(self, node_id: str, seconds: int) -> None:
        """Tell that a node will be taken away, as a cloud does of a spot instance."""
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "drain-node", "--address", self.address, "--node-id", node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot instance"]
        command += ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, env=os.environ | self.environment, check=True, capture_output=True)


def vanish(raylet: psutil.Process) -> None:
    """A node is gone without a word, and all that ran on it."""
    for process in [raylet, *raylet.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def autoscaling_cluster(
    head: Mapping[str, float],
    node_types: Mapping[str, Mapping[str, float]],
    max_workers: int,
    idle_s: float = 3,
) -> Iterator[Autoscaling]:
    """At first it has only a head; it adds up to `max_workers` nodes of each type, and removes a node without work.

    `node_types`: resources of a node of each type.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        port = free_port()
        address = f"127.0.0.1:{port}"
        config = Path(directory, "autoscaling.json")
        config.write_text(json.dumps(configuration(address, head, node_types, max_workers, idle_s)))
        with ray_head(
            port,
            f"--autoscaling-config={config}",
            f"--num-cpus={head['CPU']}",
            f"--num-gpus={head.get('GPU', 0)}",
            PYTHONPATH=pythonpath(),
            RAY_FAKE_CLUSTER="1",
            RAY_enable_autoscaler_v2="1",
            RAY_CLOUD_INSTANCE_ID=HEAD_NODE_ID,
            RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_NODE_ID,
            AUTOSCALER_UPDATE_INTERVAL_S="1",
            RAY_health_check_period_ms="1000",  # a node that vanished is missed sooner
        ) as joining:
            yield Autoscaling(address=address, environment=joining | {"SEVA_NODE_TYPES": str(config)})


def configuration(
    address: str,
    head: Mapping[str, float],
    node_types: Mapping[str, Mapping[str, float]],
    max_workers: int,
    idle_s: float = 3,
) -> dict[str, object]:
    types = {
        name: {
            "resources": {"memory": MEMORY, "object_store_memory": 100_000_000, **resources},
            "node_config": {},
            "min_workers": 0,
            "max_workers": max_workers,
        }
        for name, resources in node_types.items()
    }
    return {
        "cluster_name": "fake",
        "max_workers": max_workers * len(node_types),
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "tests.fake_nodes.FakeNodes",
            "gcs_address": address,
            "head_node_id": HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": types
        | {"ray.head.default": {"resources": dict(head), "node_config": {}, "max_workers": 0}},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
