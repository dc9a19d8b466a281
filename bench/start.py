"""bench-start: what a job's start costs, against `import ray` alone -> build/bench/start.json.

    python -m bench.start        about half a minute, and three minutes more at the first time

Measured are `--help` of every job, because a typo costs the same; and a main job that only reuses what it finds: up to
its first line, and as a whole. It finds a small run under build/bench/start, which the first benchmark makes. CPU
seconds (user and system) of a process of its own, the least of several runs: they hardly depend on what else the
machine does.
"""

import os
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
NOT_JOBS = ("presets", "experiments")
SMALL_RUN = (
    "--root", "build/bench/start", "--toy.num-images", "2000", "--toy.vision-steps", "80", "--toy.sft-steps", "120",
    "--toy.gate-accuracy", "0", "--toy.num-gate-images", "20", "--views", "diffusion-600", "--controls",
    "control-repeat", "--benchmarks.toy-images", "3", "--train.num-pairs", "48", "source:toy-world",
    "--source.num-images", "100",
)  # fmt: skip
"""Options of the main job: little work, and a model that answers well enough to make pairs."""


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
        figures = keep(RESULTS, [figure(f"{job}.py --help", own_s, ray_s, target=2.0)])
    if "full" in config.only:
        again = [sys.executable, str(JOBS / "full.py"), *SMALL_RUN]
        subprocess.run(again, check=True)  # makes the run if it is not there
        first_s = min(cpu_s_to_first_line(again) for _ in range(config.num_runs))
        keep(RESULTS, [figure("full.py to its first line", first_s, ray_s, target=2.0)])
        figures = keep(RESULTS, [figure("full.py that only reuses", cpu_s(again, config.num_runs), ray_s, target=4.0)])
    print(table(figures))


def figure(what: str, own_s: float, ray_s: float, target: float) -> Figure:
    return Figure(
        figure=f"CPU time of {what}",
        ratio=own_s / ray_s,
        target=target,
        better="lower",
        rival=f"import ray: {own_s:.2f} over {ray_s:.2f} s",
        command=COMMAND,
    )


def cpu_s(command: Sequence[str], num_runs: int) -> float:
    """The least CPU time of some runs of a command that must succeed, s; user and system."""
    taken = []
    for _ in range(num_runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def cpu_s_to_first_line(command: Sequence[str]) -> float:
    """The CPU time of a command until it prints its first line on standard error, s; user and system."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline(), "it printed nothing"
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        process.stderr.read()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(main, {"all": BenchStart()}, "The start of every job.")
