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

from seva_ray.private import ray as private_ray
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
LIMITED = """
import logging
from seva_ray.private.ray import QUIET_LOGGERS, num_cpus
for name in QUIET_LOGGERS:
    logging.getLogger(name).setLevel(logging.ERROR)
print(num_cpus())
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


STATES = """
import contextlib, io, json, os, sys, warnings
from unittest import mock
from seva_ray.core.errors import InputError
from seva_ray.runtime import machine

def found(state):
    with mock.patch.dict(os.environ, state), contextlib.redirect_stderr(io.StringIO()) as lines:
        try:
            return [machine.num_gpus(), lines.getvalue()]
        except InputError as error:
            return [str(error), lines.getvalue()]

hidden, states = json.loads(sys.argv[1]), json.loads(sys.argv[2])
results = [found(state) for state in hidden]
assert "torch" not in sys.modules
import torch

def available():
    if usable == 0:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 12080).")
    return usable > 0

torch.version.cuda, machine.version = "13.0", lambda name: "2.13.0"
torch.cuda.is_available, torch.cuda.device_count = available, lambda: usable
for usable, state in states:
    results.append(found(state))
print(json.dumps(results))
"""
"""A process that counts the GPUs in one state after the other. torch's own answers are made up from the second list on:
there is no GPU to ask it about."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
TORCH = f"torch {torch.__version__}"
HIDE = f"{VISIBLE}= (empty) makes the job run on CPUs"
TOO_OLD = (
    f"CUDA initialization: The NVIDIA driver on your system is too old (found version 12080); {machine.NEEDS}; {HIDE}"
)
NOBODY = f"{TORCH} is built for GPUs, but the NVIDIA driver of this machine does not answer"
ADVICE = f"see what nvidia-smi says, a restart of the machine often helps; {HIDE}"
NONE = (
    f"{TORCH} is built for GPUs, but no NVIDIA driver lists one here (a container needs --gpus all): the job runs on "
    "CPUs"
)
QUIET: list[dict[str, str]] = [
    {"STAND_IN_GPUS": "0"},
    *({VISIBLE: hiding} for hiding in ("", "-1", "-1,0", "NoDevFiles")),  # CUDA reads no id behind one of -1
    {"STAND_IN_INIT": "18"},
    {"STAND_IN_COUNT": "15"},
]
"""States in which nothing is said, and in which torch, which is built for CPUs here, is not imported."""
BUILT_FOR_GPUS: list[tuple[int, dict[str, str], int | str, str]] = [
    (2, {}, 2, ""),
    (1, {}, 1, "this machine has 2 GPUs, but torch can use only 1 of them: the job uses 1"),
    (0, {}, f"this machine has 2 GPUs, but {TORCH} can use none of them: {TOO_OLD}", ""),
    (1, {VISIBLE: "GPU-5ebe"}, 1, ""),
    (2, {VISIBLE: "MIG-1,MIG-2"}, 2, ""),
    (0, {VISIBLE: "7"}, f"{VISIBLE}=7 names 1 GPU, but {TORCH} can use none of them: {TOO_OLD}", ""),
    (0, {VISIBLE: "-1"}, 0, ""),
    (0, {"STAND_IN_INIT": "18"}, f"{NOBODY} (Driver/library version mismatch): {ADVICE}", ""),
    (0, {"STAND_IN_INIT": "999"}, f"{NOBODY} (Unknown Error): {ADVICE}", ""),
    (0, {"STAND_IN_COUNT": "15"}, f"{NOBODY} (GPU is lost): {ADVICE}", ""),
    (0, {"STAND_IN_INIT": "18", VISIBLE: ""}, 0, ""),
    (0, {"STAND_IN_INIT": "9"}, 0, NONE),  # the driver is not loaded
    (0, {"STAND_IN_GPUS": "0"}, 0, NONE),
]
"""What torch can use, the state of the driver, the number or the error that is found, and the line on the terminal."""


def test_what_a_driver_torch_and_the_user_say_of_gpus_is_a_number_or_a_line(tmp_path: Path):
    environment = listing_gpus(2, tmp_path) | {"PYTHONPATH": pythonpath()}
    states = [json.dumps(QUIET), json.dumps([state[:2] for state in BUILT_FOR_GPUS])]
    done = subprocess.run([sys.executable, "-c", STATES, *states], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found[: len(QUIET)] == [[0, ""]] * len(QUIET)
    for (*state, number, line), result in zip(BUILT_FOR_GPUS, found[len(QUIET) :], strict=True):
        assert result == [number, f"{line}\n" if line else ""], state


def test_a_process_that_may_use_only_some_cpus_counts_those():
    """As under taskset, and in a job of Slurm: by itself Ray counts all of the machine."""
    usual = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usual)})
        assert private_ray.num_cpus() == 1
    finally:
        os.sched_setaffinity(0, usual)


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
    """cgroups as `docker run --cpus 1.5` shows them, laid over this machine's in a mount namespace of its own."""
    limits = tmp_path / "cgroup"
    limits.mkdir()
    (limits / "cpu.max").write_text("150000 100000\n")
    (limits / "cgroup.controllers").write_text("")
    script = f'mount --bind {limits} /sys/fs/cgroup && exec "$0" -c "$1"'
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = ["unshare", "--mount", "bash", "-c", script, sys.executable, LIMITED]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": pythonpath()}, capture_output=True, text=True, timeout=300
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("no right to a mount namespace here")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("1\n", "")
