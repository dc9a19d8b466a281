"""The files for SkyPilot and Anyscale, and those of Prometheus and Grafana: what can be checked without them."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import full
from seva_ray.runtime import cli

CLUSTER = Path(__file__).parent.parent / "cluster"
METRICS = CLUSTER / "metrics"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def asked(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> full.Full:
    """What the main job is given by a command line."""
    given: list[full.Full] = []
    monkeypatch.setattr(sys, "argv", ["jobs/full.py", *words])
    cli.run(given.append, full.PRESETS, "test")
    return given[0]


def test_anyscales_job_runs_a_command_that_its_file_takes_on_the_machines_of_aws(monkeypatch: pytest.MonkeyPatch):
    job = read(CLUSTER / "anyscale.yaml")
    python, script, *words = shlex.split(job["entrypoint"])
    assert (python, script) == ("python", "jobs/full.py")
    assert asked(monkeypatch, words).root.startswith("s3://")
    types = read(CLUSTER / "aws.yaml")["available_node_types"]
    pools = {pool["name"]: pool for pool in job["compute_config"]["worker_nodes"]}
    assert pools.keys() == {"generation", "training", "augmentation"}
    for name, pool in pools.items():
        declared = {key: value for key, value in types[name]["resources"].items() if key != "memory"}
        assert pool["resources"] == declared
        assert pool["instance_type"] == types[name]["node_config"]["InstanceType"]
        assert (pool["min_nodes"], pool["max_nodes"]) == (0, types[name]["max_workers"])
        assert pool["market_type"] == ("ON_DEMAND" if name == "training" else "PREFER_SPOT")
    head = job["compute_config"]["head_node"]
    assert head["resources"] == types["head"]["resources"], "the head does no work"


def test_skypilots_task_runs_a_command_that_its_file_takes(monkeypatch: pytest.MonkeyPatch):
    task = read(CLUSTER / "skypilot.yaml")
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    environment = task["envs"]
    used = set(re.findall(r"\$\{?([A-Z]\w*)", task["run"]))
    assert used - {"PWD", "PATH"} <= environment.keys() | {
        "SKYPILOT_NODE_IPS", "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES",
    }  # fmt: skip
    # The script, with a stand-in for Ray and with a `python` that prints what it is given.
    stubs = 'ray() { echo node_id; }; python() { echo ran "$@"; }; export() { :; }\n'
    shell = {key: str(value) for key, value in environment.items()} | {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_NUM_NODES": "1", "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", stubs + task["run"]], text=True, capture_output=True, env=shell, timeout=60)
    assert done.returncode == 0, done.stderr
    (ran,) = (line for line in done.stdout.splitlines() if line.startswith("ran "))
    _, script, *words = shlex.split(ran)
    config = asked(monkeypatch, words)
    assert (script, config.name, config.root) == ("jobs/full.py", "llava-7b", environment["ROOT"])


def test_prometheus_and_grafana_find_rays_nodes_each_other_and_the_dashboard_on_loopback_only():
    compose = read(METRICS / "compose.yaml")
    services = compose["services"]
    mounts = {
        name: dict(volume.removesuffix(":ro").rsplit(":", 1)[::-1] for volume in service["volumes"])
        for name, service in services.items()
    }
    for of_service in mounts.values():
        for source in of_service.values():
            assert source in compose["volumes"] or source.startswith("${RAY_TMPDIR") or (METRICS / source).exists()
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert {service["network_mode"] for service in services.values()} == {"host"}, "ports would be open to all"
    (job,) = read(METRICS / "prometheus.yml")["scrape_configs"]
    (file,) = job["file_sd_configs"][0]["files"]
    folder, _, name = file.rpartition("/")
    assert folder in mounts["prometheus"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert name == PROMETHEUS_SERVICE_DISCOVERY_FILE
    (source,) = read(METRICS / "grafana/datasources/prometheus.yaml")["datasources"]
    assert (source["type"], source["isDefault"], source["url"]) == ("prometheus", True, "http://127.0.0.1:9090")
    (provider,) = read(METRICS / "grafana/dashboards/seva.yaml")["providers"]
    assert mounts["grafana"][f"{provider['options']['path']}/grafana.json"] == "../grafana.json"
    assert mounts["grafana"]["/etc/grafana/provisioning"] == "./grafana"
    board = json.loads((CLUSTER / "grafana.json").read_text())
    units = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in board["panels"]}
    assert units["Tokens/s"] == "suffix: tokens/s"
    assert units["Rows/s"] == "suffix: rows/s"
