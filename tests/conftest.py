"""Shared by all tests: tiny models, a Ray cluster, pairs to train on; a test marked `gpu` is skipped where there is no
CUDA device."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seva_ray.core.contents import contents
from seva_ray.core.fingerprints import fingerprint_of, identity
from tests.environment import AS_INSTALLED, ROOT

if TYPE_CHECKING:
    from tests.small_run import SmallRun

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The models of the tests are so small that the threads of one computation mostly wait for each other, and they compute
while they wait. Ray gives its workers one thread too. It must be set before torch is loaded."""

BUILD, TOY = ROOT / "build" / "tests", ROOT / "seva_ray" / "toy"

TEMPORARY_FILES = "tmp"
"""The directory beside Ray's own in which the processes of the tests' cluster make their temporary files."""

LONGEST = (
    "test_main_job.py", "test_kills.py", "test_sweep.py", "test_train.py", "test_metrics.py", "test_submit.py",
    "test_stages.py", "test_switch.py", "test_signals.py", "test_machine.py", "test_family_training.py",
)  # fmt: skip
"""The files that take longest. They start first, so that two processes that share the files end at about one time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session", autouse=True)
def processes_have_what_users_have() -> Iterator[None]:
    """Every process that a test starts has what a user installs, and not the packages that only the tests need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", AS_INSTALLED, prepend=os.pathsep)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_engines_stay_for_the_next_file() -> Iterator[None]:
    """Engines that stay take the CPUs of the cluster that all tests share, and a later test would wait for ever."""
    yield
    module = sys.modules.get("seva_ray.runtime.kept_engines")
    assert not (module and module.keepers), "a test of this file has left a keeper of engines"


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a toy model with random weights."""
    return random_model(tmp_path_factory.mktemp("models") / "toy", seed=5)


def random_model(directory: Path, seed: int) -> str:
    """A toy model with random weights, scaled so that its answers are no near ties; its directory."""
    import torch

    from seva_ray.toy.model import build, save

    model = build(seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    save(model, directory)
    return str(directory)


@pytest.fixture(scope="session")
def trained_toy() -> str:
    """Directory of a toy model trained for about a minute: good enough for answers that are no near ties.

    It stays in build/ for the next run, under a name that follows from its recipe and from the code that trains it.
    """
    from seva_ray.toy.recipe import ToyRecipe

    recipe = ToyRecipe(num_images=2000, vision_steps=80, sft_steps=120, gate_accuracy=0.0, num_gate_images=20)
    code = {path.name: contents(str(path)) for path in sorted(TOY.glob("*.py"))}
    made = BUILD / fingerprint_of({"recipe": identity(recipe), "code": code})
    BUILD.parent.mkdir(exist_ok=True)
    with BUILD.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other process of this session may be training it
        if not (made / "toy-base").exists():
            from seva_ray.toy.sft import train

            shutil.rmtree(BUILD, ignore_errors=True)  # what other code had trained
            BUILD.mkdir()
            scratch = tempfile.mkdtemp(dir=BUILD)
            train(recipe, f"{scratch}/toy-base")
            os.rename(scratch, made)
    return str(made / "toy-base")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two CPUs for the whole session, in a directory of its own, shut down at the end. It has the
    GPUs that torch can use. No process passes on the logs of its workers, which nobody reads."""
    import ray
    from ray._private.node import Node

    from seva_ray.private.ray import CORE_SETTINGS, listen_on_loopback_only
    from seva_ray.runtime import machine

    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "start_log_monitor", lambda node: None)
        gpus = machine.num_gpus()
        listen_on_loopback_only()  # this and the settings are those of a cluster that a job starts for itself
        settings = {name.removeprefix("RAY_"): int(value) for name, value in CORE_SETTINGS.items()}
        os.mkdir(f"{directory}/{TEMPORARY_FILES}")
        with pytest.MonkeyPatch.context() as of_workers:
            of_workers.setenv("TMPDIR", f"{directory}/{TEMPORARY_FILES}")
            ray.init(
                num_cpus=2,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=directory,
                _system_config=settings,
            )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def run(ray_cluster: None, toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> "SmallRun":
    from tests.small_run import small_run

    return small_run(str(tmp_path_factory.mktemp("runs")), toy_model)
