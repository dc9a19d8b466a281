"""Errors of torch, CUDA, NCCL and vLLM's start that a user can mend are one line that says what helps."""

import re
import traceback
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch._inductor.exc
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from seva_ray.core.device_errors import ADVICE, device_line
from seva_ray.core.errors import InputError, UserError
from seva_ray.runtime.actors import told
from seva_ray.runtime.cli import users_line

DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from ..."
)
FREE = (
    "Free memory on device cuda:0 (20.11/23.69 GiB) on startup is less than desired GPU memory utilization (0.9, 21.32 "
    "GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
CACHE = (
    "To serve at least one request with the model's max seq len (4096), (2.0 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.1 GiB). Try increasing `gpu_memory_utilization` ..."
)


FULL = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: ea2f) \
was 23.1GB used / 24.0GB limit (0.962)
OOM kill reason: Memory usage 4397617152B exceeded threshold of 505521248B
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/... Consider provisioning
"""
"""The beginning and the end of Ray's text of 50 lines."""


@pytest.mark.parametrize(
    ("error", "says", "helps"),
    [
        (
            OutOfMemoryError(FULL),
            "Memory on the node (IP: 10.0.0.7) was 23.1GB used / 24.0GB limit",
            "end other programs",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ..."),
            "2.00 GiB",
            "max-num-seqs",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
            "alloc",
            "less",
        ),
        (MemoryError(), "out of memory", "less is needed"),
        (ValueError(FREE), "20.11/23.69 GiB", "--generate.engine.gpu-memory-utilization"),
        (ValueError("No available memory for the cache blocks. Try increasing"), "blocks", "tensor-parallel-size 2"),
        (ValueError(CACHE), "(4096)", "--generate.engine.max-model-len"),
        (ValueError("Bfloat16 is only supported on GPUs with compute capability of at least 8.0."), "8.0", "float16"),
        (RuntimeError(DRIVER), "Found no NVIDIA driver", "580"),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled", "install.sh gpu"),
        (RuntimeError("Failed to infer device type, please set the environment variable"), "infer", "install.sh cpu"),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
            "image",
            "7.5",
        ),
        (
            torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:94, unhandled"),
            "NCCL",
            "NCCL_DEBUG=INFO",
        ),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "assert", "CUDA_LAUNCH_BLOCKING=1"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "cuDNN", "another GPU"),
        (RuntimeError("can't start new thread"), "thread", "ulimit -u"),
        (ImportError("libGL.so.1: cannot open shared object file: No such file or directory"), "libGL", "images"),
        (ImportError("/lib/libm.so.6: version `GLIBC_2.38' not found (required by x.so)"), "GLIBC_2.38", "images"),
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable"), "compiler", "g++"),
        (
            torch._inductor.exc.InvalidCxxCompiler(),
            "No working C++ compiler found",
            "g++",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_a_device_is_one_line_with_what_helps(error: Exception, says: str, helps: str):
    line = device_line(error)
    assert line is not None
    assert "\n" not in line
    assert says in line
    assert helps in line
    behind = RuntimeError("the engine failed")
    behind.__cause__ = error
    with pytest.raises(UserError, match=re.escape(line)), told():
        raise behind


def test_a_defect_is_no_error_of_a_device():
    for error in (
        RuntimeError("shape mismatch"),
        ValueError("max_tokens"),
        KeyError("out of memory"),
        ImportError("cannot import name 'x'"),
        AssertionError(),
    ):
        assert device_line(error) is None


def test_an_error_in_an_actors_constructor_is_the_users_line_too():
    """Ray turns it into text. It is made here as Ray makes it."""
    try:
        raise InputError("model x: no such directory")
    except InputError:
        text = f"\x1b[36mray::Worker.__init__()\x1b[39m (pid=7, ip=10.0.0.7)\n{traceback.format_exc()}"
    died = ActorDiedError(RayTaskError("Worker.__init__", text, InputError("model x: no such directory")))
    assert users_line(died) == "model x: no such directory"
    assert users_line(RuntimeError("the pool failed")) is None
    defect = ActorDiedError(RayTaskError("Worker.__init__", "Traceback ...\nKeyError: 'x'", KeyError("x")))
    assert users_line(defect) is None


OF_VLLM = {
    "Free memory on device": "v1/worker/utils.py",
    "No available memory for the cache blocks": "v1/core/kv_cache_utils.py",
    "To serve at least one request with the model's max seq len": "v1/core/kv_cache_utils.py",
    "Bfloat16 is only supported on GPUs": "platforms/cuda.py",
    "Failed to infer device type": "config/device.py",
}


def test_the_installed_ray_still_says_it_so():
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    raylet = Path(spec.origin).parent / "core" / "src" / "ray" / "raylet" / "raylet"
    assert b"killed due to the node running low on memory" in raylet.read_bytes()


@pytest.mark.parametrize("message", OF_VLLM)
def test_the_installed_vllm_still_says_it_so(message: str):
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    assert message in Path(spec.origin).parent.joinpath(OF_VLLM[message]).read_text()
    assert any(message in pattern for pattern in ADVICE)
