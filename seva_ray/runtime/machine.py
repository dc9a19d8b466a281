"""machine: the CPUs and GPUs that a Ray cluster on this machine may use: the CPUs of this process and the GPUs that
torch can use. By itself Ray counts every GPU that the driver lists, even if the installed torch cannot use it.
"""

import warnings

from seva_ray.core.device_errors import CARD, DRIVER
from seva_ray.core.errors import InputError
from seva_ray.private import ray as private_ray
from seva_ray.runtime.progress import say

NEEDS = f"the locked torch needs {DRIVER}, and {CARD}"
INSTALL = "cluster/images/install.sh gpu installs the CUDA build"

LEAST_CPUS = 2
"""An engine takes one CPU, and the task that encodes its images takes another. On a single core they take turns."""


def num_cpus() -> int:
    """CPUs as Ray counts them, so that a container's limit is respected; at least LEAST_CPUS."""
    return max(LEAST_CPUS, private_ray.num_cpus())


def num_gpus() -> int:
    """Number of GPUs that torch can use. If the machine has more, a line on the terminal says so.

    Raises: InputError if torch is built for GPUs but can use none of this machine's GPUs.
    """
    found = private_ray.num_listed_gpus()
    if not found:
        return 0
    import torch  # takes two seconds, so a machine without GPUs does not import it

    usable, reason = usable_gpus()
    listed = f"this machine has {found} GPU{'s' if found > 1 else ''}"
    if usable >= found:
        return found
    if usable:
        say(f"{listed}, but torch can use only {usable} of them: the job uses {usable}")
    elif built_for_gpus():
        raise InputError(
            f"{listed}, but torch {torch.__version__} can use none of them{reason}; "
            "CUDA_VISIBLE_DEVICES= (empty) makes the job run on CPUs"
        )
    else:
        say(f"{listed}, but torch {torch.__version__}{reason}: the job runs on CPUs; {INSTALL}")
    return usable


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
