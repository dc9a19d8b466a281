"""bench-job: where the time of a whole small job goes, by stage and by kind of process -> build/bench/job.json.

    python -m bench.job        two minutes, and three minutes more at the first time

The main job runs on an empty root with a base model that the first benchmark trains. Its work is a few seconds, so
almost all that is measured are starts: of Ray, of an engine, of the workers that train. Wall time is of the machine as
it is. CPU time (user and system) hardly depends on what else the machine does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.start import JOBS, SMALL_RUN
from seva_ray.core.checks import check_least
from seva_ray.runtime.cli import run

RESULTS = Path("build/bench/job.json")
ROOT = Path("build/bench/job")
BASE = Path("build/bench/start/models/toy-1/model")
"""The base model of the benchmark of starts."""
LOOK_EVERY_S = 0.1
SECOND = "generate, time 2"
SECOND_LIMIT_S = 3.0
"""The policy answers six questions, so nearly all of its time is fixed."""

KINDS = (
    ("full.py", "driver"),
    ("UnitWorker", "engine"),
    ("RayTrainWorker", "training worker"),
    (r"TrainController|Synchronization|Preemption|Cleaner|DatasetManager", "Ray Train's helpers"),
    (r"encode_units|pair_shard", "tasks"),
    (r"_StatsActor|ActorLocation|Autoscaling|LogRelay", "other actors"),
    (r"gcs_server|raylet|monitor|dashboard|[Aa]gent", "the Ray cluster"),
)
"""Patterns of a process's titles, and the kind of process. A process that has had several titles is of the first kind
that fits any of them."""


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """What is measured."""

    num_runs: int = 1
    """Runs from an empty root; the one that took least CPU time counts."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_runs")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of the job."""

    wall_s: float
    cpu_s: float
    of_stages: Mapping[str, float]
    """Wall time in s until the last line of each stage, from that of the stage before it."""
    of_kinds: Mapping[str, float]
    """CPU time in s by kind of process."""
    num_processes: Mapping[str, int]


def main(config: BenchJob) -> None:
    if not BASE.exists():
        subprocess.run([sys.executable, str(JOBS / "full.py"), *SMALL_RUN], check=True)
    options = [word for word in SMALL_RUN if word != "build/bench/start"]
    options[0:1] = ["--root", str(ROOT), "--model", str(BASE)]
    best = min((measured([str(JOBS / "full.py"), *options]) for _ in range(config.num_runs)), key=lambda it: it.cpu_s)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(vars(best), indent=1), encoding="utf-8")
    print(f"a whole small job: {best.wall_s:.1f} s, {best.cpu_s:.1f} CPU s")
    for stage, seconds in best.of_stages.items():
        target = f" (target: at most {SECOND_LIMIT_S:g} s)" if stage == SECOND else ""
        print(f"  {stage:<22}{seconds:7.1f} s{target}")
    for kind, seconds in best.of_kinds.items():
        print(f"  {kind:<22}{seconds:7.1f} CPU s in {best.num_processes[kind]} processes")


def measured(words: Sequence[str]) -> Measured:
    shutil.rmtree(ROOT, ignore_errors=True)
    began, lines = time.monotonic(), list[tuple[float, str]]()
    titles: dict[int, list[str]] = {}
    cpu_s: dict[int, float] = {}
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def listen() -> None:
        assert process.stderr is not None
        lines.extend((time.monotonic() - began, line) for line in process.stderr)

    listener = threading.Thread(target=listen)
    listener.start()
    while process.poll() is None:
        for pid, (title, spent_s) in family(process.pid).items():
            seen = titles.setdefault(pid, [])
            if title not in seen:
                seen.append(title)
            cpu_s[pid] = spent_s
        time.sleep(LOOK_EVERY_S)
    listener.join()
    wall_s = time.monotonic() - began
    assert process.returncode == 0, "".join(line for _, line in lines)
    kinds = {pid: kind_of(seen) for pid, seen in titles.items()}
    spent: dict[str, float] = {}
    for pid, kind in kinds.items():
        spent[kind] = spent.get(kind, 0.0) + cpu_s[pid]
    return Measured(
        wall_s=wall_s,
        cpu_s=sum(spent.values()),
        of_stages=stages_of(lines),
        of_kinds=dict(sorted(spent.items(), key=lambda item: -item[1])),
        num_processes=Counter(kinds.values()),
    )


def family(pid: int) -> dict[int, tuple[str, float]]:
    """The process and its descendants: title, and CPU time in s so far."""
    stats: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        stats[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = {pid} & stats.keys()
    while more := {child for child, (parent, _) in stats.items() if parent in found} - found:
        found |= more
    return {member: (title_of(member), stats[member][1]) for member in found}


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kind_of(titles: Sequence[str]) -> str:
    for pattern, kind in KINDS:
        if any(re.search(pattern, title) for title in titles):
            return kind
    return "processes that Ray started ahead"


def stages_of(lines: Sequence[tuple[float, str]]) -> dict[str, float]:
    """`lines`: when the job printed each line, in s after its start. The first word of a line is its stage."""
    found: dict[str, float] = {}
    visits: Counter[str] = Counter()
    last, before = "", 0.0
    for at_s, line in lines:
        stage = re.split(r"\W", line, maxsplit=1)[0].replace("reference", "train")  # the same workers do both stages
        if line.rstrip().endswith("so far") or not stage.isalpha():
            continue  # a heartbeat tells of a wait and ends nothing
        visits[stage] += stage != last
        name = stage if visits[stage] == 1 else f"{stage}, time {visits[stage]}"
        found[name] = found.get(name, 0.0) + at_s - before
        last, before = stage, at_s
    return found


if __name__ == "__main__":
    run(main, {"small": BenchJob()}, "A whole small job.")
