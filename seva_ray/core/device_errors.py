"""Errors of GPUs, torch, vLLM's start and the system's libraries that a user can mend: what happened, and what helps.

They are known by their messages, because these libraries raise them as RuntimeError or ValueError. The messages are
those of the locked versions; `tests/test_device_errors.py` looks for them in the installed files.
"""

import re

from seva_ray.core.errors import line_of, names_of

DRIVER, CARD = "NVIDIA driver 580 or later", "compute capability 7.5 or higher"
"""What the locked torch needs."""

ADVICE = {
    r"running low on memory": (
        "Ray ended a process, because the memory of that machine was nearly full; end other programs there, or let "
        "fewer processes work at once (--generate.max-engines 1, --train.num-workers 1), and run the same command again"
    ),
    r"Free memory on device .* is less than": (
        "another process uses this GPU (nvidia-smi shows it): end it, or set a lower "
        "--generate.engine.gpu-memory-utilization"
    ),
    r"No available memory for the cache blocks": (
        "beside the weights there is no room for a KV cache: set --generate.engine.tensor-parallel-size 2, a higher "
        "--generate.engine.gpu-memory-utilization, or take a larger card"
    ),
    r"To serve at least one request with the model's max seq len": (
        "the KV cache does not hold one sequence: set a lower --generate.engine.max-model-len or a higher "
        "--generate.engine.gpu-memory-utilization (on CPUs --generate.engine.cpu-kv-cache-gb)"
    ),
    r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED": (
        "less is needed with a lower --generate.engine.max-num-seqs or --generate.engine.gpu-memory-utilization in "
        "generation, and with a lower --train.per-device-batch-size in the reference"
    ),
    r"Bfloat16 is only supported on GPUs": "set --generate.engine.dtype float16",
    r"Found no NVIDIA driver|NVIDIA driver on your system is too old|CUDA driver version is insufficient": (
        f"the locked torch needs {DRIVER}"
    ),
    r"no kernel image is available|CUDA capability sm_\d+ is not compatible": (
        f"this card is too old: the locked torch needs {CARD}"
    ),
    r"Torch not compiled with CUDA enabled": "cluster/images/install.sh gpu installs a torch for GPUs",
    r"Failed to infer device type|No CUDA GPUs are available": (
        "this process sees no GPU, and its libraries are built for GPUs: to compute on CPUs, take the environment that "
        "cluster/images/install.sh cpu installs"
    ),
    r"CUDA-capable device\(s\) is/are busy|all CUDA-capable devices are busy": (
        "another process holds this GPU in exclusive mode; nvidia-smi shows it"
    ),
    r"device-side assert triggered|illegal memory access|CUDNN_STATUS_|CUBLAS_STATUS_": (
        "the same command continues; if it comes again, CUDA_LAUNCH_BLOCKING=1 shows where, and another GPU whether "
        "it is this card"
    ),
    r"can't start new thread": (
        "the limit of processes and threads of this user or container is reached; raise it (ulimit -u, or --pids-limit "
        "of a container)"
    ),
    r"cannot open shared object file|version `\w+_[\d.]+' not found": (
        "a library of the system is missing or too old; the images of cluster/images have what is needed"
    ),
    r"No working C\+\+ compiler|Failed to find C compiler": (
        "install a compiler (apt-get install g++), or set CC and CXX; the images of cluster/images have one"
    ),
    r"uncorrectable ECC error|GPU has fallen off the bus|GPU is lost": (
        "this GPU is broken; take its node out of the cluster"
    ),
    r"NCCL error|ncclSystemError|ncclRemoteError|ncclInternalError|ncclUnhandledCudaError": (
        "the GPUs of a group cannot talk to each other: NCCL_DEBUG=INFO says more, NCCL_SOCKET_IFNAME names the "
        "network, and containers need a large /dev/shm"
    ),
}
"""What to do, by a pattern in the error's message. The first that fits counts."""

KINDS = {"RuntimeError", "ValueError", "AssertionError", "MemoryError", "ImportError", "OutOfMemoryError"}
"""Classes of errors that can have these messages, by themselves or by a class that inherits from them."""


def device_line(error: BaseException) -> str | None:
    """A line with the error and what helps, or None if it is another error."""
    if not KINDS & names_of(error):
        return None
    message = "out of memory" if isinstance(error, MemoryError) else str(error)
    for pattern, advice in ADVICE.items():
        if found := re.search(pattern, message):
            said = next((line for line in message.splitlines() if found.group() in line), line_of(error))
            said = re.sub(r", ID: \w+", "", said)  # of a node of Ray
            return f"{' '.join(said.split())[:200].rstrip('. ')}: {advice}"
    return None
