"""bench-start: what a job's start costs, by `--help`, against `import ray` alone -> build/bench/start.json.

    python -m bench.start        about half a minute

Whoever makes a typo waits this long for the line that says so. CPU seconds (user and system) of a process of its own,
the least of several runs: they do not depend on what else the machine does.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, keep, table
from seva_ray.core.checks import check_least
from seva_ray.runtime.cli import run

RESULTS = Path("build/bench/start.json")
COMMAND = "python -m bench.start"
JOBS = Path(__file__).parent.parent / "jobs"
NOT_JOBS = ("presets",)


@dataclass(frozen=True, kw_only=True)
class BenchStart:
    """What is measured."""

    only: tuple[str, ...] = tuple(sorted(file.stem for file in JOBS.glob("*.py") if file.stem not in NOT_JOBS))
    """Names of jobs."""
    num_runs: int = 3
    """Runs of each command; the one that took least counts."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_runs")


def main(config: BenchStart) -> None:
    ray_s = cpu_s([sys.executable, "-c", "import ray"], config.num_runs)
    figures: list[Figure] = []
    for job in config.only:
        own_s = cpu_s([sys.executable, str(JOBS / f"{job}.py"), "--help"], config.num_runs)
        figure = Figure(
            figure=f"CPU time of {job}.py --help",
            ratio=own_s / ray_s,
            target=3.0,
            better="lower",
            rival=f"import ray: {own_s:.2f} over {ray_s:.2f} s",
            command=COMMAND,
        )
        figures = keep(RESULTS, [figure])
    print(table(figures))


def cpu_s(command: Sequence[str], num_runs: int) -> float:
    """The least CPU time of some runs of a command that must succeed, s; user and system."""
    taken = []
    for _ in range(num_runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


if __name__ == "__main__":
    run(main, {"all": BenchStart()}, "The start of every job.")
