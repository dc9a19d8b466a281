"""The GPUs of a cluster, looked at before they are used: what they are, and whether torch computes on them.

Ray counts the GPUs that a driver lists, or that `ray start` was told of. Whether the torch of that node can use them
shows only when it tries: in a task of a second or two on one node of each kind.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seva_ray.core.errors import InputError, line_of
from seva_ray.runtime.machine import INSTALL, NEEDS, built_for_gpus, usable_gpus
from seva_ray.runtime.progress import say
from seva_ray.runtime.resources import GENERATION, TRAINING

LEAST_CAPABILITY = (7, 5)
"""The compute capability that torch's CUDA build is compiled for. Turing (T4) has 7.5, Volta (V100) has 7.0."""
LIMIT_S = 180.0
"""Longest time for a node to answer, in seconds: a process starts there, and imports torch."""
SIDE = 4096
"""Rows and columns of the matrices that are multiplied."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The GPUs of one kind of node."""

    name: str
    number: int
    """Number of such GPUs in a node."""
    gib: float
    """Memory of the smallest of them, in GiB."""
    free_gib: float
    """Memory of the fullest of them that no process uses, in GiB."""
    tflops: float
    """Speed of a matrix product in half precision, in 10^12 operations per second; 0 if the card had no room for it."""
    driver: str
    torch: str
    kinds: tuple[str, ...]
    """The resources among `generation` and `training` that the node declares."""


examined: dict[tuple[str, str], Card] = {}
"""What was found, by the job of Ray and the kind of node."""


def cards(kind: str) -> list[Card]:
    """The GPUs of the nodes that are there, of one kind if any node declares a kind. One node of each shape is examined
    once, and a line on the terminal says what it has.

    Raises: InputError if torch cannot use the GPUs of a node.
    """
    import ray

    job = ray.get_runtime_context().get_job_id()
    found = {}
    for node in (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")):
        shape = shape_of(node)
        if (job, shape) not in examined:
            card = card_of(node, answer_of(node))
            examined[job, shape] = card
            say(
                f"{card.number} x {card.name}: {card.gib:.1f} GiB, {card.free_gib:.1f} of it free, "
                f"{f'{card.tflops:.0f} TFLOP/s' if card.tflops else 'in use'}; torch {card.torch}, driver {card.driver}"
            )
        found[shape] = examined[job, shape]
    return [card for card in found.values() if kind in card.kinds] or list(found.values())


def shape_of(node: Mapping[str, Any]) -> str:
    """A text that is equal for nodes of one kind."""
    own = ("node:", "memory", "object_store_memory")
    return repr(sorted(item for item in node["Resources"].items() if not item[0].startswith(own)))


def answer_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What `examine` finds on a node. Raises: InputError if it does not answer."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    # The process of the task ends with it (max_calls), and leaves nothing on the GPU.
    task = ray.remote(num_cpus=0, max_calls=1, scheduling_strategy=there)(examine).remote(int(node["Resources"]["GPU"]))
    try:
        return ray.get(task, timeout=LIMIT_S)
    except GetTimeoutError:
        ray.cancel(task, force=True)
        place = node["NodeManagerAddress"]
        raise InputError(f"node {place}: its GPUs do not answer within {LIMIT_S:.0f} s; try nvidia-smi there") from None


def card_of(node: Mapping[str, Any], answer: Mapping[str, Any]) -> Card:
    """Raises: InputError if the node's GPUs cannot be used."""
    counted, where = int(node["Resources"]["GPU"]), f"node {node['NodeManagerAddress']}"
    if answer["error"]:
        raise InputError(f"{where}: Ray counts {counted} GPU{'s' if counted > 1 else ''}, but {answer['error']}")
    if answer["capability"] < LEAST_CAPABILITY:
        capability = ".".join(map(str, answer["capability"]))
        raise InputError(f"{where}: {answer['name']} has compute capability {capability}; {NEEDS}")
    kinds = tuple(kind for kind in (GENERATION, TRAINING) if node["Resources"].get(kind))
    names = ("name", "number", "gib", "free_gib", "tflops", "driver", "torch")
    return Card(kinds=kinds, **{name: answer[name] for name in names})


def examine(counted: int) -> dict[str, Any]:
    """A task on the node: what its GPUs are, and how fast they multiply matrices; `error` if they cannot be used."""
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "driver": driver_version(), "error": ""}
    if not built_for_gpus():
        return found | {"error": f"torch {torch.__version__} is built for CPUs; {INSTALL}"}
    number, reason = usable_gpus()
    if number < counted:
        return found | {"error": f"torch {torch.__version__} can use {number or 'none'} of them{reason}"}
    try:
        found["capability"] = min(torch.cuda.get_device_capability(place) for place in range(number))
        free, total = zip(*(torch.cuda.mem_get_info(place) for place in range(number)), strict=True)
        found |= {
            "name": torch.cuda.get_device_name(0),
            "number": number,
            "gib": min(total) / 2**30,
            "free_gib": min(free) / 2**30,
            "tflops": 0.0,
        }
        if found["capability"] >= LEAST_CAPABILITY:
            found["tflops"] = min(multiply(f"cuda:{place}") for place in range(number))
    except torch.OutOfMemoryError:
        pass  # another job computes on them
    except RuntimeError as error:
        found["error"] = f"torch {torch.__version__} cannot compute on them: {line_of(error)}; {NEEDS}"
    return found


def multiply(device: str, num_products: int = 10) -> float:
    """Speed of a matrix product in half precision on this device, in 10^12 operations per second."""
    import torch

    one = torch.ones(SIDE, SIDE, device=device, dtype=torch.float16)
    product = one @ one  # the first product loads the library
    if float(product[0, 0]) != SIDE:
        raise RuntimeError(f"{device} multiplies wrongly: {float(product[0, 0])} in place of {SIDE}")
    began = time.perf_counter()
    for _ in range(num_products):
        product = one @ one
    float(product[0, 0])  # waits for the device
    return 2 * SIDE**3 * num_products / (time.perf_counter() - began) / 1e12


def driver_version() -> str:
    """The version of NVIDIA's driver on this machine."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
        return next(word for word in words if word[0].isdigit() and "." in word)
    except (OSError, StopIteration):
        return "unknown"
