"""The input of a plan: how fast each part of the work goes, and the cluster. A rate that nobody knows is None."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from seva_ray.core.checks import check_least, check_positive, check_shares
from seva_ray.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast each part of the work goes, as a probe measured it or as the user gave it. None: unknown."""

    prepare_rows_per_s: float | None = None
    """Prompts per second that one process reads from the source and writes as shards."""
    rows_per_s: float | None = None
    """Responses per second of one engine."""
    start_s: float | None = None
    """Time from a node's arrival until its engines are ready, in s."""
    encode_rows_per_s: float | None = None
    """Prompts per second that one CPU reads, augments and preprocesses. If unknown, encoding slows no engine."""
    commits_per_s: float | None = None
    """Units per second that one driver and storage can take from its engines. If unknown, no limit."""
    read_files_per_s: float | None = None
    """Files per second that the driver reads, several at once. It reads every file of responses for its digest; the
    files of pairs to write pairs.json, and again to order them for training."""
    regenerate_rows_per_s: float | None = None
    """Images per second that one worker regenerates with a diffusion model, for the views regenerate-<strength>."""
    pair_rows_per_s: float | None = None
    """Prompts per second for which one CPU compares the responses of two views."""
    kept_share: float | None = None
    """Share of the prompts that become a pair, from 0 to 1."""
    reference_pairs_per_s: float | None = None
    """Pairs per second that one training worker scores with the reference."""
    train_start_s: float | None = None
    """Time that training takes beside its steps, in s: the workers' start and the policy's export."""
    step_s: float | None = None
    """Time of one optimiser step with the run's own loss, in s. Image terms make it longer; see `step_factor`."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (0 <= value < math.inf and (value > 0 or item.name in MAY_BE_ZERO)):
                raise ConfigError(f"{item.name} {value}: must be above 0, and finite")
        check_shares(self, "kept_share")

    def known(self) -> dict[str, float]:
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


ON_ONE_RESPONSE, ON_TWO_RESPONSES = 1.85, 1.94
"""Time of a step with image terms over one without, if they score one or two responses on the second image. Measured
with 576 image tokens and answers of 100 tokens: `python -m bench.methods`, docs/LOG.md."""


def step_factor(loss: Mapping[str, Any]) -> float:
    """Time of a step with a loss of these settings, over one without image terms."""
    if loss.get("symmetric_weight"):
        return ON_TWO_RESPONSES
    return ON_ONE_RESPONSE if loss.get("image_weight") else 1.0


MAY_BE_ZERO = ("start_s", "kept_share", "train_start_s")


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The cluster that a plan is for."""

    nodes: tuple[int, ...] = (1,)
    """Numbers of nodes for engines. The plan has a forecast for each, and shows the stages for the last one."""
    gpus_per_node: int = 8
    """GPUs of a node with engines. With 0, a node has one engine, which runs on its CPUs."""
    gpu_gib: float | None = None
    """Memory of one GPU, in GiB: 22 for an L4, 39 for an A100 with 40 GB, 79 for an H100. None: unknown."""
    cpus_per_node: int = 96
    """CPUs of a node with engines. Each engine takes one; the others encode."""
    cpu_nodes: int = 0
    """Number of nodes without engines, which encode and pair."""
    cpus_per_cpu_node: int = 64
    """CPUs of a node without engines."""

    def __post_init__(self) -> None:
        if not self.nodes or min(self.nodes) < 1:
            raise ConfigError(f"nodes {' '.join(map(str, self.nodes))}: at least one number, each at least 1")
        check_least(self, 0, "gpus_per_node", "cpu_nodes")
        check_positive(self, "gpu_gib")
        check_least(self, 1, "cpus_per_node", "cpus_per_cpu_node")

    def engines_per_node(self, gpus_per_engine: int) -> int:
        if self.gpus_per_node and gpus_per_engine > self.gpus_per_node:
            raise ConfigError(f"gpus_per_node {self.gpus_per_node}: an engine takes {gpus_per_engine}")
        return self.gpus_per_node // gpus_per_engine if self.gpus_per_node and gpus_per_engine else 1

    def one_node(self) -> dict[str, float]:
        """What a node has of each resource, in Ray's names."""
        return {"GPU": self.gpus_per_node, "CPU": self.cpus_per_node}

    def training_nodes(self, num_workers: int) -> int:
        return math.ceil(num_workers / (self.gpus_per_node or self.cpus_per_node))

    def cpus(self, num_nodes: int) -> int:
        return num_nodes * self.cpus_per_node + self.cpu_nodes * self.cpus_per_cpu_node
