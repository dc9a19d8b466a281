"""cpu_memory: how many processes with a model a machine without GPUs has memory for.

Ray ends processes, the newest first, when a machine's memory is used up, and starts them again. So a process that finds
no room would cost the others their work, again and again.
"""

import math
import time

from seva_ray.core.outlines import local_outline
from seva_ray.engines import TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.planning.memory import GIB, engine_on_cpus
from seva_ray.private.ray import free_memory
from seva_ray.runtime.progress import say
from seva_ray.runtime.resources import has_gpus, is_one_node
from seva_ray.vlm.model_files import num_weights_in, weight_headers

FREED_WITHIN_S = 5.0
"""Longest time to wait for memory that processes give back which have just been ended, in seconds."""
LOOKS_EVERY_S = 0.5


def number_held(what: str, number: int, gib_each: float, stage: str) -> int:
    """How many of `number` processes have room in this machine's memory, at least one. It says so if not all have.

    `what` they are, such as `engines`, and `gib_each` what each takes by our estimate, in GiB. A machine with GPUs and
    a cluster of several nodes are not looked at.
    """
    if number == 1 or not gib_each or has_gpus() or not is_one_node():
        return number
    ends = time.monotonic() + FREED_WITHIN_S
    while (held := max(1, math.floor(free_memory() / GIB / gib_each))) < number and time.monotonic() < ends:
        time.sleep(LOOKS_EVERY_S)
    if held >= number:
        return number
    say(
        f"{stage}: {held} of {number} {what}, because each takes about {gib_each:.1f} GiB of memory and "
        f"{max(0.0, free_memory()) / GIB:.1f} are free; --generate.no-memory-check starts them all"
    )
    return held


def engines_held(config: Generate, directory: str, number: int) -> int:
    """How many of `number` engines with the model in a directory have room in this machine's memory."""
    if number == 1 or not config.memory_check or not isinstance(config.engine, VllmEngine | TransformersEngine):
        return number
    num_weights = num_weights_in(weight_headers(local_outline(directory)).values())
    return number_held("engines", number, engine_on_cpus(num_weights, config.engine), "generate")
