"""The files for `ray up` pass Ray's own checks and their cloud's, as far as both can be asked without an account, and
declare what the machines they name have.

AWS is moto, an EC2 in this process that knows all instance types: Ray's launcher makes every node type there. For
Google and Azure the sizes are in a table below, and the fields are those of their public interfaces.
"""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws import config as launcher
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
CLOUDS = ["aws", "gcp", "azure"]
POOLS = {"generation", "training", "augmentation"}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\b")

SIZES = {  # CPUs, GPUs, GiB of memory
    # cloud.google.com/compute/docs: general-purpose machines, accelerator-optimized machines
    "e2-standard-8": (8, 0, 32),
    "n2-standard-16": (16, 0, 64),
    "g2-standard-8": (8, 1, 32),
    "a2-highgpu-1g": (12, 1, 85),
    "a2-highgpu-8g": (96, 8, 680),
    # learn.microsoft.com/azure/virtual-machines/sizes: Dsv5, Ddsv5, NC_A100_v4, ND_A100_v4
    "Standard_D8s_v5": (8, 0, 32),
    "Standard_D16ds_v5": (16, 0, 64),
    "Standard_NC24ads_A100_v4": (24, 1, 220),
    "Standard_ND96asr_v4": (96, 8, 900),
}

# Of the resource Instance of Compute Engine's REST interface v1, what a cluster may want.
GOOGLE_FIELDS = {
    "machineType": str,
    "disks": {
        "boot": bool,
        "autoDelete": bool,
        "type": {"PERSISTENT", "SCRATCH"},
        "interface": {"NVME", "SCSI"},
        "initializeParams": {"diskSizeGb": int, "diskType": str, "sourceImage": str},
    },
    "serviceAccounts": {"email": str, "scopes": list},
    "scheduling": {
        "provisioningModel": {"STANDARD", "SPOT"},
        "instanceTerminationAction": {"STOP", "DELETE"},
        "onHostMaintenance": {"MIGRATE", "TERMINATE"},
        "automaticRestart": bool,
    },
}


def launched(cloud: str) -> dict[str, Any]:
    """The file as `ray up` takes it: with Ray's defaults. Raises where Ray's schema does not know a field."""
    config = prepare_config(yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text()))
    validate_config(config)
    return config


def pools(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rays_launcher_takes_the_file(cloud: str) -> None:
    config = launched(cloud)
    assert config["provider"]["type"] == cloud
    config["available_node_types"]["training"]["max_worker"] = 1
    with pytest.raises(Exception, match="max_worker"):
        validate_config(config)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_gpu_is_of_one_kind_and_the_head_does_no_work(cloud: str) -> None:
    config = launched(cloud)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert {name.split("_")[0] for name in pools(config)} == POOLS
    for name, pool in pools(config).items():
        kind, resources = name.split("_")[0], pool["resources"]
        expected = {"CPU", "GPU", kind} if kind != "augmentation" else {"CPU"}
        assert resources.keys() == expected | {"memory"}, name
        assert resources.get(kind, 0) == resources.get("GPU", 0), name


@pytest.mark.parametrize("cloud", CLOUDS)
def test_pools_are_empty_until_a_job_asks_and_all_can_be_full(cloud: str) -> None:
    config = launched(cloud)
    assert [pool["min_workers"] for pool in pools(config).values()] == [0] * len(pools(config))
    assert config["max_workers"] >= sum(pool["max_workers"] for pool in pools(config).values())
    assert 0 < config["idle_timeout_minutes"] <= 30


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_without_a_gpu_run_the_cpu_image(cloud: str) -> None:
    config = launched(cloud)
    for name, pool in pools(config).items():
        image = pool.get("docker", {}).get("worker_image", config["docker"]["worker_image"])
        assert f":{'gpu' if 'GPU' in pool['resources'] else 'cpu'}-{cloud}" in image, name
    assert f":cpu-{cloud}" in config["docker"]["head_image"]


def images_in(text: str) -> list[str]:
    """What a file of a cluster says behind the words that name an image."""
    named = re.findall(
        r"^\s*(?:- )?(?:image|image_uri|head_image|worker_image|ARG BASE|FROM)\s*[:= ]\s*(.+)$", text, re.M
    )
    kustomized = re.findall(r"\{name: .*newName: .*\}", text)
    # What refers to another line, of this file or of the kustomization, is no name of its own.
    return [name for name in named + kustomized if not re.match(r"\*|\$\{|seva-ray-[cg]pu\b", name)]


def test_every_image_is_named_by_its_digest() -> None:
    files = [path for path in CLUSTER.rglob("*") if path.suffix in (".yaml", ".yml") or path.name == "Dockerfile"]
    found = {path.name: images_in(path.read_text()) for path in files}
    assert not [(name, image) for name, images in found.items() for image in images if not DIGEST.search(image)]
    numbers = {"aws.yaml": 2, "gcp.yaml": 2, "azure.yaml": 2, "anyscale.yaml": 1, "compose.yaml": 2, "Dockerfile": 1}
    assert {name: len(images) for name, images in found.items() if images} == numbers | {"kustomization.yaml": 2}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_token_authentication_is_on_and_the_token_is_the_users_file(cloud: str) -> None:
    config = launched(cloud)
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_port_is_published_and_drivers_cannot_be_steered_from_outside(cloud: str) -> None:
    config = launched(cloud)
    assert not [option for option in config["docker"]["run_options"] if "-p " in option or "publish" in option]
    assert "IpPermissions" not in config["provider"].get("security_group", {})  # what AWS would open more
    assert "ray-client-server-port" not in json.dumps(config)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_directories_that_containers_mount_are_made_for_their_user(cloud: str) -> None:
    config = launched(cloud)
    options = " ".join(config["docker"]["run_options"])
    mounted = dict(re.findall(r"-v (\S+):(\S+)", options))
    (made,) = [words for words in config["initialization_commands"] if "install -d" in words]
    assert set(mounted) == {word for word in made.split() if word.startswith("/")}
    assert "-o 1000 -g 1000" in made
    assert set(mounted.values()) == {"/scratch/spill", "/home/ray/.cache"}
    assert "RAY_object_spilling_directory=/scratch/spill" in options
    assert "SEVA_SCRATCH=/scratch/spill" in options


SECRETS = re.compile(
    r"AKIA[A-Z0-9]{16}|-----BEGIN|(?:aws|gcp)_credentials|"
    r"\b(?:password|auth_token|api_key|secret_?(?:access_?)?key|private_key)\b['\"]?\s*[:=]\s*['\"]?[^\s'\"~$]",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "text", ["api_key: sk-123", 'aws_credentials: {"a": 1}', "AKIA" + "Q" * 16, "password=hunter2"]
)
def test_a_credential_would_be_found(text: str) -> None:
    assert SECRETS.search(text)


def test_no_file_of_the_clusters_holds_a_credential() -> None:
    files = [file for file in CLUSTER.rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert len(files) > 15
    found = {(file.name, match[0]) for file in files for match in SECRETS.finditer(file.read_text(errors="ignore"))}
    assert found == set()


def test_what_the_readme_names_is_there() -> None:
    readme = (CLUSTER / "README.md").read_text()
    whole = set(re.findall(r"\bcluster/[\w./-]+\w", readme))
    own = {"cluster/" + name for name in re.findall(r"`([\w/-]+\.(?:yaml|sbatch)|\w+/)`", readme)}
    assert len(whole | own) > 10
    assert [name for name in sorted(whole | own) if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """aws.yaml as Ray's launcher completes it in an account that has aws-roles.yaml."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(variable, "none")
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # the launcher writes its key there
        patch.setattr("moto.settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION", True)
        utils.resource_cache.cache_clear()
        launcher.boto3.client("cloudformation").create_stack(
            StackName="seva-ray",
            TemplateBody=(CLUSTER / "aws-roles.yaml").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "my-bucket"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield launcher.bootstrap_aws(launched("aws"))
        utils.resource_cache.cache_clear()


@pytest.fixture
def amazon(account: dict[str, Any]) -> dict[str, Any]:
    return deepcopy(account)


def start(config: dict[str, Any], name: str) -> dict[str, Any]:
    """One node of a type, as EC2 describes it."""
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": name}
    (node_id,) = provider.create_node(config["available_node_types"][name]["node_config"], tags, 1)
    described = launcher.boto3.client("ec2").describe_instances(InstanceIds=[node_id])
    return described["Reservations"][0]["Instances"][0]


def test_amazon_starts_every_node_type_as_asked(amazon: dict[str, Any]) -> None:
    for name, node_type in amazon["available_node_types"].items():
        node = start(amazon, name)
        assert node["InstanceType"] == node_type["node_config"]["InstanceType"]
        assert node["IamInstanceProfile"]["Arn"].endswith(f"/seva-ray-{'head' if name == 'head' else 'worker'}")
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        spot = node.get("InstanceLifecycle") == "spot"
        assert spot == (name.split("_")[0] in ("generation", "augmentation")), name


def test_amazon_would_refuse_another_instance_type_or_field(amazon: dict[str, Any]) -> None:
    node_config = amazon["available_node_types"]["training"]["node_config"]
    node_config["InstanceType"] = "p4d.25xlarge"
    with pytest.raises(Exception, match="InvalidInstanceType"):
        start(amazon, "training")
    node_config["InstanceTypo"] = node_config.pop("InstanceType")
    with pytest.raises(Exception, match="InstanceTypo"):
        start(amazon, "training")


def test_amazon_lets_in_ssh_and_nothing_else(amazon: dict[str, Any]) -> None:
    used = {
        group for kind in amazon["available_node_types"].values() for group in kind["node_config"]["SecurityGroupIds"]
    }
    (group,) = launcher.boto3.client("ec2").describe_security_groups(GroupIds=sorted(used))["SecurityGroups"]
    outside = [rule for rule in group["IpPermissions"] if rule.get("IpRanges") or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) for rule in outside] == [(22, 22, "tcp")]
    inside = [rule for rule in group["IpPermissions"] if rule not in outside]
    assert {pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]} == used


def test_amazons_machines_have_what_is_declared(amazon: dict[str, Any]) -> None:
    declared = {name: kind.pop("resources") for name, kind in pools(amazon).items()}
    found = pools(AWSNodeProvider.fillout_available_node_types_resources(amazon))
    for name, resources in declared.items():
        for resource in ("CPU", "GPU"):
            assert resources.get(resource, 0) == found[name]["resources"].get(resource, 0), name
        assert 0.93 < resources["memory"] / found[name]["resources"]["memory"] <= 1, name


def test_amazons_head_may_hand_its_workers_their_role_and_no_other(amazon: dict[str, Any]) -> None:
    iam = launcher.boto3.client("iam")
    document = iam.get_role_policy(RoleName="seva-ray-head", PolicyName="workers")["PolicyDocument"]
    policy = yaml.safe_load(document)  # moto writes it as Python would
    (passing,) = [statement for statement in policy["Statement"] if "iam:PassRole" in statement["Action"]]
    assert passing["Resource"] == iam.get_role(RoleName="seva-ray-worker")["Role"]["Arn"]
    assert iam.list_role_policies(RoleName="seva-ray-worker")["PolicyNames"] == []


def unknown(value: Any, allowed: Any) -> list[str]:
    """Where a value is not of the shape that `allowed` says: a type, a set of values, or the fields of an object."""
    if isinstance(allowed, dict) and isinstance(value, list):
        return [line for item in value for line in unknown(item, allowed)]
    if isinstance(allowed, dict):
        lines = [f"no field {name}" for name in value.keys() - allowed.keys()]
        return lines + [line for name in value.keys() & allowed.keys() for line in unknown(value[name], allowed[name])]
    fits = value in allowed if isinstance(allowed, set) else type(value) is allowed
    return [] if fits else [f"{value!r} is none of {allowed}"]


def test_googles_nodes_have_fields_that_compute_engine_knows() -> None:
    config = launched("gcp")
    zone, project = config["provider"]["availability_zone"], config["provider"]["project_id"]
    assert zone.rpartition("-")[0] == config["provider"]["region"]
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        assert unknown(node, GOOGLE_FIELDS) == [], name
        parameters = [disk["initializeParams"] for disk in node["disks"]]
        assert {each["diskType"].split("/")[1] for each in parameters} == {zone}
        assert [disk.get("boot", False) for disk in node["disks"]] == [True] + [False] * (len(parameters) - 1)
        for account in node.get("serviceAccounts", []):
            assert account["email"].endswith(f"@{project}.iam.gserviceaccount.com")
        if "GPU" in kind["resources"]:  # such a machine cannot be moved while it runs
            assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
        spot = node.get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert spot == (name.split("_")[0] in ("generation", "augmentation")), name
    assert unknown({"disks": [{"bot": True}]}, GOOGLE_FIELDS) == ["no field bot"]


def test_azures_nodes_have_the_parameters_of_rays_template() -> None:
    template = Path(ray.autoscaler.__file__).parent / "_private" / "_azure" / "azure-vm-template.json"
    parameters = json.loads(template.read_text())["parameters"]
    types = {"string": str, "int": int, "bool": bool, "object": dict}
    for name, kind in launched("azure")["available_node_types"].items():
        node = kind["node_config"]["azure_arm_parameters"]
        assert unknown(node, {field: types.get(known["type"]) for field, known in parameters.items()}) == [], name
        spot = node.get("priority") == "Spot"
        assert spot == (name in ("generation", "augmentation")), name


@pytest.mark.parametrize(("cloud", "field"), [("gcp", "machineType"), ("azure", "vmSize")])
def test_machines_have_what_is_declared(cloud: str, field: str) -> None:
    config = launched(cloud)
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"].get("azure_arm_parameters", kind["node_config"])
        cpus, gpus, gibibytes = SIZES[node[field]]
        if name != "head":
            assert (kind["resources"]["CPU"], kind["resources"].get("GPU", 0)) == (cpus, gpus), name
            assert 0.65 < kind["resources"]["memory"] / (gibibytes * 2**30) <= 0.7, name  # Ray's share, not rounded up
