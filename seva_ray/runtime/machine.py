"""machine: the CPUs and GPUs that a Ray cluster on this machine may use: the CPUs of this process and the GPUs that
torch can use. By itself Ray counts every GPU that the driver lists, even if the installed torch cannot use it.
"""

import os
import warnings
from importlib.metadata import version

from seva_ray.core.device_errors import CARD, DRIVER
from seva_ray.core.errors import InputError
from seva_ray.private import ray as private_ray
from seva_ray.runtime.nvml import driver_fault
from seva_ray.runtime.progress import say

NEEDS = f"the locked torch needs {DRIVER}, and {CARD}"
INSTALL = "cluster/images/install.sh gpu installs the CUDA build"
VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDING = ("", "-1", "NoDevFiles")
"""First ids in CUDA_VISIBLE_DEVICES that hide all GPUs."""
HIDE = f"{VISIBLE}= (empty) makes the job run on CPUs"

LEAST_CPUS = 2
"""An engine takes one CPU, and the task that encodes its images takes another. On a single core they take turns."""


def num_cpus() -> int:
    """CPUs as Ray counts them, so that a container's limit is respected; at least LEAST_CPUS."""
    return max(LEAST_CPUS, private_ray.num_cpus())


def num_gpus() -> int:
    """Number of GPUs that torch can use. If the machine has more, a line on the terminal says so.

    Raises: InputError if torch is built for GPUs but can use none of this machine's GPUs.
    """
    if VISIBLE in os.environ and os.environ[VISIBLE].split(",")[0].strip() in HIDING:
        return 0
    fault = driver_fault()
    found, shown = (0, None) if fault else private_ray.listed_gpus()
    if shown is not None:
        found = min(found, len(shown))
    if not found:
        say_why_there_is_none(fault)
        return 0
    import torch  # takes two seconds, so a machine without GPUs does not import it

    usable, reason = usable_gpus()
    number = f"{found} GPU{'s' if found > 1 else ''}"
    listed = f"this machine has {number}" if shown is None else f"{VISIBLE}={os.environ[VISIBLE]} names {number}"
    if usable >= found:
        return found
    if usable:
        say(f"{listed}, but torch can use only {usable} of them: the job uses {usable}")
    elif built_for_gpus():
        raise InputError(f"{listed}, but torch {torch.__version__} can use none of them{reason}; {HIDE}")
    else:
        say(f"{listed}, but torch {torch.__version__}{reason}: the job runs on CPUs; {INSTALL}")
    return usable


def say_why_there_is_none(fault: str) -> None:
    """Say that a torch for GPUs has none here. `fault`: what a driver says that is there and does not answer.

    Raises: InputError if there is such a driver: its GPUs would be left idle.
    """
    if version("torch").endswith("+cpu"):
        return  # this is known without the two seconds that it takes to import torch
    import torch

    if not built_for_gpus():
        return
    torch_here = f"torch {torch.__version__} is built for GPUs"
    if fault:
        raise InputError(
            f"{torch_here}, but the NVIDIA driver of this machine does not answer ({fault.rstrip('.')}): see what "
            f"nvidia-smi says, a restart of the machine often helps; {HIDE}"
        )
    say(f"{torch_here}, but no NVIDIA driver lists one here (a container needs --gpus all): the job runs on CPUs")


def usable_gpus() -> tuple[int, str]:
    """Number of GPUs that torch can use, and if there are none why, as the end of a sentence."""
    import torch

    if not built_for_gpus():
        return 0, " is built for CPUs"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable:
        return usable, ""
    reason = " ".join(str(caught[0].message).split()) if caught else "torch.cuda.is_available() is false"
    return 0, f": {reason.rstrip('.')}; {NEEDS}"


def built_for_gpus() -> bool:
    import torch

    return bool(torch.version.cuda or torch.version.hip)
