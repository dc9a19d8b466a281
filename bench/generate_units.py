"""Many units: what a unit costs the job's own driver, with one driver and with drivers of parts. The fake engine, one
prompt in each unit.

    python -m bench.generate_units --sizes 1000 3000

Ends are not counted: what the driver does before the first and after the last commit is shown apart.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.fresh import in_fresh_process, own_cluster
from bench.generate_growth import TinyPrompts
from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.units import Units
from seva_ray.runtime.cli import run
from seva_ray.stages import generate as stage
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class BenchUnits:
    """What is measured."""

    sizes: tuple[int, ...] = (1_000, 3_000)
    """The numbers of units to measure."""
    one_driver: bool = False
    """Let the job's own driver make all units."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """CPU time of the driver between its first and its last commit, and in the whole stage."""

    cpu_s: float
    wall_s: float
    resident_mb: float
    """How much more memory it had at the last commit."""
    whole_cpu_s: float
    num_units: int
    """Number of units committed between the first and the last commit."""


def now() -> tuple[float, float, float]:
    """CPU time of this process in s, the time in s, and resident memory in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return used.ru_utime + used.ru_stime, time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def spent(num_units: int, one_driver: bool) -> Spent:
    """Generate this number of units."""
    moments: list[tuple[int, tuple[float, float, float]]] = []
    made = stage.made

    def watched(config: Generate, missing: Sequence[Units]) -> Iterator[stage.Made]:
        for item in made(config, missing):
            moments.append((item[1], now()))
            yield item

    stage.made = watched
    stage.UNITS_PER_DRIVER = num_units if one_driver else 0
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2):
        store = Store(root)
        prompts = prepare(Prepare(shard_size=1), store, "tiny", TinyPrompts(num_prompts=num_units))
        before, config = now(), Generate(engine=FakeEngine())
        model = Model(name="fake", directory=".", fingerprint="")
        (responses,) = stage.generate(config, store, model, [(prompts, "clean")])
        assert responses.counts["num_responses"] == num_units
        whole = now()[0] - before[0]
    (_, first), (_, last) = moments[0], moments[-1]
    cpu_s, wall_s, more_mb = (late - early for late, early in zip(last, first, strict=True))
    between = sum(number for number, _ in moments[1:])
    return Spent(cpu_s=cpu_s, wall_s=wall_s, resident_mb=more_mb, whole_cpu_s=whole, num_units=between)


def main(config: BenchUnits) -> None:
    for size in config.sizes:
        found = in_fresh_process(spent, size, config.one_driver)
        each = found.num_units or 1
        print(
            f"{size:,} units, {'one driver' if config.one_driver else 'drivers of parts'}: {each:,} between commits in "
            f"{found.wall_s:.1f} s ({each / max(found.wall_s, 1e-9):.0f} a second); of the job's driver "
            f"{found.cpu_s / each * 1e3:.3f} ms of CPU and {found.resident_mb / each * 1e6:.0f} B a unit; "
            f"the whole stage {found.whole_cpu_s / size * 1e3:.2f} ms a unit"
        )


if __name__ == "__main__":
    run(main, {"all": BenchUnits()}, "What a unit costs the job's own driver.")
