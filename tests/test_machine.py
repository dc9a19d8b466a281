"""What a cluster that is started on a machine counts: GPUs that torch can use, CPUs that the container may use."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import torch

from seva_ray.runtime import machine
from tests.environment import pythonpath
from tests.nvml import listing_gpus
from tests.ray_head import free_port

REPOSITORY = str(Path(__file__).parent.parent)
RAY_ALONE_AND_JOINED = """
import json, ray
from seva_ray.core.errors import InputError
from seva_ray.runtime import preflight
from seva_ray.runtime.cluster import cluster, join
from seva_ray.runtime.resources import capacity, has_gpus
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
found = [capacity().get("GPU", 0), has_gpus()]
try:
    preflight.cards("training")
except InputError as error:
    found.append(str(error).partition(": ")[2])
ray.shutdown()
with cluster():
    join()
    print(json.dumps([*found, capacity().get("GPU", 0), has_gpus()]))
"""
JOINED = """
from seva_ray.runtime.cluster import cluster, join
from seva_ray.runtime.resources import capacity
with cluster():
    join()
    print(capacity()["CPU"])
"""
on_cpu_torch = pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use GPUs")


def said(code: str, environment: Mapping[str, str]) -> tuple[object, list[str]]:
    """What the code printed, as JSON, and the lines on standard error but Ray's core's own."""
    command, environment = [sys.executable, "-c", code], dict(environment) | {"PYTHONPATH": pythonpath()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), [line for line in done.stderr.splitlines() if "GPU" in line]


@on_cpu_torch
@pytest.mark.parametrize(
    "number", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 8]
)
def test_gpus_that_torch_cannot_use_are_not_counted_and_a_line_says_why(number: int, tmp_path: Path):
    found, lines = said(RAY_ALONE_AND_JOINED, listing_gpus(number, tmp_path))
    counted = f"Ray counts {number} GPU{'s' if number > 1 else ''}, but torch {torch.__version__} is built for CPUs; "
    assert found == [number, True, f"{counted}cluster/images/install.sh gpu installs the CUDA build", 0, False]
    assert lines == [
        f"this machine has {number} GPU{'s' if number > 1 else ''}, but torch {torch.__version__} is built for CPUs: "
        "the job runs on CPUs; cluster/images/install.sh gpu installs the CUDA build"
    ]


def test_where_no_gpu_is_or_all_are_hidden_nothing_is_said_and_torch_is_not_loaded(tmp_path: Path):
    code = "import json, sys\nfrom seva_ray.runtime import machine\nfound = machine.num_gpus()\n"
    code += "print(json.dumps([found, 'torch' in sys.modules]))"
    assert said(code, listing_gpus(0, tmp_path)) == ([0, False], [])
    assert said(code, listing_gpus(2, tmp_path) | {"CUDA_VISIBLE_DEVICES": ""}) == ([0, False], [])


BUILT_FOR_GPUS = """
import json, torch, warnings
from seva_ray.core.errors import InputError
from seva_ray.runtime import machine
torch.version.cuda = "13.0"
usable = {usable}
def available():
    if not usable:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 12080).")
    return usable > 0
torch.cuda.is_available, torch.cuda.device_count = available, lambda: usable
try:
    print(json.dumps(machine.num_gpus()))
except InputError as error:
    print(json.dumps(str(error)))
"""
"""torch's own answers are made up: there is no GPU to ask it about."""


def test_a_torch_for_gpus_that_can_use_none_or_not_all_of_them_is_told_apart(tmp_path: Path):
    environment = listing_gpus(2, tmp_path)
    assert said(BUILT_FOR_GPUS.format(usable=2), environment) == (2, [])
    told = "this machine has 2 GPUs, but torch can use only 1 of them: the job uses 1"
    assert said(BUILT_FOR_GPUS.format(usable=1), environment) == (1, [told])
    error, _ = said(BUILT_FOR_GPUS.format(usable=0), environment)
    assert error == (
        f"this machine has 2 GPUs, but torch {torch.__version__} can use none of them: CUDA initialization: The NVIDIA "
        "driver on your system is too old (found version 12080); "
        f"{machine.NEEDS}; "
        "CUDA_VISIBLE_DEVICES= (empty) makes the job run on CPUs"
    )


@on_cpu_torch
def test_a_head_for_submitted_jobs_counts_as_a_job_does(tmp_path: Path):
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        environment = listing_gpus(2, tmp_path) | {"HOME": str(tmp_path), "PYTHONPATH": pythonpath()}
        command = [sys.executable, f"{REPOSITORY}/cluster/local.py"]
        command += ["--port", str(free_port()), "--directory", directory]
        started = subprocess.run([*command, "start"], env=environment, capture_output=True, text=True, timeout=300)
        try:
            assert started.returncode == 0, started.stderr
            head = psutil.Process(int(Path(directory, "head.pid").read_text()))
            (raylet,) = (process for process in head.children(recursive=True) if process.name() == "raylet")
            (counted,) = (word for word in raylet.cmdline() if word.startswith("--static_resource_list="))
        finally:
            subprocess.run([*command, "stop"], env=environment, check=True, timeout=300)
    assert "GPU" not in counted
    assert "built for CPUs" in started.stderr


def test_a_container_s_limit_of_cpus_holds(tmp_path: Path):
    """cgroups as `docker run --cpus 3` shows them, laid over this machine's in a mount namespace of its own."""
    limits = tmp_path / "cgroup"
    limits.mkdir()
    (limits / "cpu.max").write_text("300000 100000\n")
    (limits / "cgroup.controllers").write_text("")
    script = f'mount --bind {limits} /sys/fs/cgroup && exec "$0" -c "$1"'
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = ["unshare", "--mount", "bash", "-c", script, sys.executable, JOINED]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": pythonpath()}, capture_output=True, text=True, timeout=300
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("no right to a mount namespace here")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 3
