"""bench-growth: memory and CPU time of each stage as its rows grow -> build/bench/growth.json.

    python -m bench.growth                              10 thousand and 100 thousand rows, about 5 minutes
    python -m bench.growth --rows 1000000 --stages train

Every stage reads fake artifacts that stages before it would have written (growth_rows.py), in a process and a Ray
cluster of its own. Memory is the peak resident size of a process over its whole life, with the memory that it shares
with others. A driver's is compared with 400 MB, libraries included; a worker's without what it had after its imports.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, keep, table
from bench.fresh import in_fresh_process
from bench.growth_stages import STAGES, Grown
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say

RESULTS = Path("build/bench/growth.json")
COMMAND = "python -m bench.growth"


@dataclass(frozen=True, kw_only=True)
class BenchGrowth:
    """What is measured."""

    rows: tuple[int, ...] = (10_000, 100_000)
    """The numbers of rows to measure."""
    stages: tuple[str, ...] = tuple(STAGES)
    """Names of the stages to measure."""
    scratch: str | None = None
    """Directory for the fake artifacts, which take about 0.4 kB a row. By default it is the system's own."""

    def __post_init__(self) -> None:
        for name in self.stages:
            if name not in STAGES:
                raise ConfigError(f"stages {name}: must be one of {', '.join(STAGES)}")


def main(config: BenchGrowth) -> None:
    figures: list[Figure] = []
    for name in config.stages:
        for number in config.rows:
            with tempfile.TemporaryDirectory(prefix="growth-", dir=config.scratch) as root:
                in_fresh_process(STAGES[name].make, root, number)
                grown = in_fresh_process(STAGES[name].measure, root, number)
            say(f"growth: {name}, {number:,} rows: {grown}")
            figures = keep(RESULTS, figures_of(name, number, grown))
    print(table(figures))


def figures_of(name: str, number: int, grown: Grown) -> list[Figure]:
    """The figures of a stage. Each is a share of its limit."""
    stage = STAGES[name]
    measured = [
        ("memory of the driver", "MB", grown.driver_mb, stage.driver_mb),
        ("memory of a worker", "MB", grown.worker_mb, stage.worker_mb),
        ("CPU time of the driver for a row", "us", 1e6 * grown.cpu_s / number, stage.row_us),
        ("CPU time of a worker for a row", "us", grown.worker_row_us, stage.worker_row_us),
    ]
    return [
        Figure(
            figure=f"{what}, {name}, {number:,} rows",
            ratio=value / limit,
            target=1.0,
            better="lower",
            rival=f"the limit: {value:.1f} over {limit:g} {unit}",
            command=f"{COMMAND} --stages {name} --rows {number}",
        )
        for what, unit, value, limit in measured
        if value is not None and limit is not None
    ]


if __name__ == "__main__":
    run(main, {"all": BenchGrowth()}, "Memory and CPU time of the stages as their rows grow.")
