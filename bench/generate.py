"""bench-generate: how fast generation is, against named rivals -> build/bench/generate.json, and a table.

python -m bench.generate                       all of it
python -m bench.generate --only scheduling     some of it; the file keeps the others' last results
python -m bench.generate --only growth --full  with one million prompts
"""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, keep, table
from bench.fresh import ONE_CORE
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run

RESULTS = Path("build/bench/generate.json")
KINDS = ("scheduling", "growth", "engine", "rivals", "sweep")
"""Loaded only when measured: a measured process imports this file anew, and growth is about its memory."""


@dataclass(frozen=True, kw_only=True)
class BenchGenerate:
    """The figures to measure."""

    only: tuple[str, ...] = KINDS
    """Kinds of figures."""
    full: bool = False
    """Also measure one million prompts, which takes longer than minutes."""

    def __post_init__(self) -> None:
        for kind in self.only:
            if kind not in KINDS:
                raise ConfigError(f"only {kind!r}: must be among {', '.join(KINDS)}")


def main(config: BenchGenerate) -> None:
    os.environ |= ONE_CORE
    figures: list[Figure] = []
    for kind in config.only:
        command = f"python -m bench.generate --only {kind}" + (" --full" if config.full else "")
        measured: list[Figure] = importlib.import_module(f"bench.generate_{kind}").measure(command, config.full)
        figures = keep(RESULTS, measured)
    print(table(figures))


if __name__ == "__main__":
    run(main, {"all": BenchGenerate()}, "Benchmarks of generation.")
