"""The manifests for KubeRay have fields that KubeRay and Kubernetes know, make the pools that Ray's autoscaler is to
scale, and run jobs that exist with options that they take."""

import importlib
import shlex
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from seva_ray.runtime.cli import run

jsonschema = pytest.importorskip("jsonschema")  # a dependency of Ray's
ROOT = Path(__file__).parent.parent
KUBERAY = ROOT / "cluster" / "kuberay"
JOBS = ["full", "generate", "train", "evaluate", "sweep"]
MANIFESTS = ["cluster", "network", "volume", *(f"jobs/{job}" for job in JOBS)]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERAY / f"{name}.yaml").read_text())


def strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        parts |= {"type": "object", "additionalProperties": False}
    return parts


KNOWN = jsonschema.Draft202012Validator(
    strict(yaml.safe_load((ROOT / "tests" / "kuberay_fields.yaml").read_text())),
)


@pytest.fixture
def cluster() -> dict[str, Any]:
    return manifest("cluster")


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    everyone = {"head": cluster["spec"]["headGroupSpec"]} | groups(cluster)
    return {name: group["template"]["spec"] for name, group in everyone.items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_is_known(name: str) -> None:
    KNOWN.validate(manifest(name))


def test_no_manifest_is_left_out() -> None:
    found = {str(file.relative_to(KUBERAY).with_suffix("")) for file in KUBERAY.rglob("*.yaml")}
    assert found == {*MANIFESTS, "kustomization"}
    assert manifest("kustomization")["resources"] == ["cluster.yaml", "network.yaml", "volume.yaml"]


@pytest.mark.parametrize("path", ["spec.idleTimeout", "spec.headGroupSpec.template.spec.containers.0.resource"])
def test_an_unknown_field_is_refused(path: str, cluster: dict[str, Any]) -> None:
    place: Any = cluster
    *parents, last = path.split(".")
    for name in parents:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = 1
    assert not KNOWN.is_valid(cluster)


def test_rays_autoscaler_sees_a_pool_of_each_kind_and_a_head_that_does_no_work(cluster: dict[str, Any]) -> None:
    cluster["metadata"]["namespace"] = "seva"
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    resources = {name: {k: v for k, v in t["resources"].items() if k != "memory"} for name, t in types.items()}
    assert resources == {
        "headgroup": {"CPU": 0},
        "generation": {"CPU": 7, "GPU": 1, "generation": 1},
        "training": {"CPU": 90, "GPU": 8, "training": 8},
        "augmentation": {"CPU": 15},
    }
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert 0 < config["idle_timeout_minutes"] <= 30


def test_a_pod_asks_kubernetes_for_what_it_promises_ray(cluster: dict[str, Any]) -> None:
    for name, group in groups(cluster).items():
        (container,) = group["template"]["spec"]["containers"]
        asked = container["resources"]["limits"]
        assert container["resources"]["requests"] == asked
        assert asked["cpu"] == group["resources"]["CPU"], name
        assert asked.get("nvidia.com/gpu") == group["resources"].get("GPU"), name
        assert container["image"] == f"seva-ray-{'gpu' if 'GPU' in group['resources'] else 'cpu'}"
        assert group["template"]["spec"]["nodeSelector"] == {"seva-ray/pool": name}


def test_images_come_from_where_the_kustomization_says(cluster: dict[str, Any]) -> None:
    named = {image["name"] for image in manifest("kustomization")["images"]}
    assert {pod["containers"][0]["image"] for pod in pods(cluster).values()} == named


def test_pods_run_without_rights(cluster: dict[str, Any]) -> None:
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert cluster["spec"]["autoscalerOptions"]["securityContext"] == locked
    for pod in pods(cluster).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["containers"][0]["securityContext"] == locked


def test_token_authentication_is_on_and_secrets_are_named_only(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "seva-ray-token"}
    for pod in pods(cluster).values():
        values = {item["name"]: item["value"] for item in pod["containers"][0]["env"] if "value" in item}
        assert values == {
            "RAY_object_spilling_directory": "/scratch/spill",
            "SEVA_SCRATCH": "/scratch/spill",
            "SEVA_NODE_TYPES": "/etc/seva/cluster.yaml",
        }


def test_every_volume_that_is_mounted_is_there(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster).values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes.keys()
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == manifest("volume")["metadata"]["name"]
        (made,) = manifest("kustomization")["configMapGenerator"]
        assert volumes["cluster"]["configMap"]["name"] == made["name"]
        assert made["files"] == ["cluster.yaml"]
    assert manifest("volume")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_only_the_dashboard_is_open_and_only_to_who_submits(cluster: dict[str, Any]) -> None:
    policy = manifest("network")["spec"]
    ours = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    assert policy["podSelector"] == ours
    assert policy["policyTypes"] == ["Ingress"]
    within, others = policy["ingress"]
    assert within == {"from": [{"podSelector": ours}]}
    assert others["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert all(source.get("podSelector", {}).get("matchLabels") for source in others["from"])


@pytest.mark.parametrize("job", JOBS)
def test_a_job_runs_a_command_that_its_file_takes(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = manifest(f"jobs/{job}")["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": manifest("cluster")["metadata"]["name"]}
    python, script, *words = shlex.split(spec["entrypoint"])
    assert (python, script) == ("python", f"/opt/seva_ray/jobs/{job}.py")
    taken: list[Any] = []
    monkeypatch.setattr(sys, "argv", [script, *words])
    run(taken.append, importlib.import_module(job).PRESETS, "")
    assert [config.root for config in taken] == ["/data/runs"]


def test_an_option_that_a_job_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "llava-7b", "--generate.max-engine", "16"])
    with pytest.raises(SystemExit):
        run(deepcopy, importlib.import_module("generate").PRESETS, "")
