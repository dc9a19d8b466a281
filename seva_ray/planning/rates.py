"""What a plan is told: how fast each part of the work goes, and the cluster. What nobody knows is None."""

import math
from dataclasses import dataclass, fields

from seva_ray.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast it goes, measured by a probe or given. None: unknown."""

    prepare_rows_per_s: float | None = None
    """Prompts that the driver reads from the source and writes as shards."""
    rows_per_s: float | None = None
    """Responses of one engine."""
    start_s: float | None = None
    """From a node's arrival until its engines are ready."""
    encode_rows_per_s: float | None = None
    """Prompts that one CPU reads, augments and preprocesses. Unknown: as many as the engines want."""
    commits_per_s: float | None = None
    """Units that driver and storage can take from all engines or workers together. Unknown: without limit."""
    read_files_per_s: float | None = None
    """Files that the driver reads, several at once: all responses, for their counts; of shards with pairs the pairs,
    for pairs.json, and to train once more, with as many of the reference's log-probabilities."""
    pair_rows_per_s: float | None = None
    """Prompts of which one CPU compares the responses of two views."""
    kept_share: float | None = None
    """Share of the prompts that end as a pair."""
    reference_pairs_per_s: float | None = None
    """Pairs that one training worker scores with the reference."""
    train_start_s: float | None = None
    """Of training: its workers' start, and the policy's export."""
    step_s: float | None = None
    """An optimiser step."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (0 <= value < math.inf and (value > 0 or item.name in MAY_BE_ZERO)):
                raise ConfigError(f"{item.name} {value}: must be above 0, and finite")
        if self.kept_share is not None and self.kept_share > 1:
            raise ConfigError(f"kept_share {self.kept_share}: must be 0 to 1")

    def known(self) -> dict[str, float]:
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


MAY_BE_ZERO = ("start_s", "kept_share", "train_start_s")


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The cluster."""

    nodes: tuple[int, ...] = (1,)
    """Numbers of nodes for engines: each is planned for. The stages are shown for the last one."""
    gpus_per_node: int = 8
    """0 for a cluster without GPUs: a node then has one engine, on its CPUs."""
    cpus_per_node: int = 96
    """Each engine takes one, the others encode."""
    cpu_nodes: int = 0
    """Nodes without engines, that encode and pair."""
    cpus_per_cpu_node: int = 64

    def __post_init__(self) -> None:
        if not self.nodes or min(self.nodes) < 1:
            raise ConfigError(f"nodes {' '.join(map(str, self.nodes))}: at least one number, each at least 1")
        for name in ("gpus_per_node", "cpu_nodes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 0")
        for name in ("cpus_per_node", "cpus_per_cpu_node"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")

    def engines_per_node(self, gpus_per_engine: int) -> int:
        if self.gpus_per_node and gpus_per_engine > self.gpus_per_node:
            raise ConfigError(f"gpus_per_node {self.gpus_per_node}: an engine takes {gpus_per_engine}")
        return self.gpus_per_node // gpus_per_engine if self.gpus_per_node else 1

    def training_nodes(self, num_workers: int) -> int:
        return math.ceil(num_workers / (self.gpus_per_node or self.cpus_per_node))

    def cpus(self, num_nodes: int) -> int:
        return num_nodes * self.cpus_per_node + self.cpu_nodes * self.cpus_per_cpu_node
