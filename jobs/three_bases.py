"""Does SeVa help the toy model? Three base models, three training seeds each, against the swap control.

    python jobs/three_bases.py        about 40 minutes on two cores; prints the tables of docs/LOG.md

The swap control trains on the same pairs with chosen and rejected exchanged at random in half of them: what it gains is
not SeVa's. Intervals over images are a paired bootstrap of the mean over training seeds; the interval over bases is
Student's, with as few degrees of freedom as there are bases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from full import PRESETS, Full
from full import main as full
from seva_ray.benchmarks import Benchmark, Benchmarks
from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run as run_job
from seva_ray.runtime.cluster import cluster
from seva_ray.scoring.intervals import Comparison, pooled_bootstrap, student_half_width
from seva_ray.stages.score_files import read_tallies


@dataclass(frozen=True, kw_only=True)
class ThreeBases:
    """Base models x training seeds x (SeVa, swap control)."""

    bases: tuple[int, ...] = (1, 2, 3)
    """Seeds of the base models."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of training: of the adapter, the order and the choice of pairs."""
    controls: tuple[int, ...] = (0, 1, 2)
    """Seeds of the swap control's training."""
    metrics: tuple[str, ...] = (
        "VQA accuracy", "VQA accuracy without count", "count accuracy", "POPE accuracy", "POPE F1",
        "describe precision", "describe recall", "describe words",
    )  # fmt: skip
    """Rows of the tables."""
    root: str = "runs"
    """Where artifacts are kept."""
    toy_images: int = 600
    """Test scenes behind each camera."""


def main(config: ThreeBases) -> None:
    store = Store(config.root)
    run = replace(PRESETS["toy"], root=config.root, benchmarks=Benchmarks(toy_images=config.toy_images))
    benchmarks = run.benchmarks.chosen()
    with cluster():
        for base in config.bases:
            for seed in config.seeds:
                full(one_run(run, base, seed, swap=False))
            for seed in config.controls:
                full(one_run(run, base, seed, swap=True))
    for benchmark in benchmarks:
        for swap in (False, True):
            rows = [compare(store, config, benchmark, base, swap) for base in config.bases]
            print(f"\n### {benchmark.name}, {'swap control' if swap else 'SeVa'}\n")
            print(markdown(config, rows))


def one_run(run: Full, base: int, seed: int, swap: bool) -> Full:
    return replace(
        run,
        name=policy_name(base, seed, swap),
        toy=replace(run.toy, seed=base),
        train=replace(run.train, seed=seed, swap_sides=swap),
    )


def policy_name(base: int, seed: int, swap: bool) -> str:
    return f"base{base}-{'swap' if swap else 'seva'}{seed}"


def compare(store: Store, config: ThreeBases, benchmark: Benchmark, base: int, swap: bool) -> dict[str, Comparison]:
    """The base against the mean of its policies, by metric."""
    seeds = config.controls if swap else config.seeds
    scores = [store.find(f"scores/{benchmark.name}/{policy_name(base, seed, swap)}") for seed in seeds]
    (start, _), *_ = tallies = [read_tallies(item) for item in scores]
    rows = pooled_bootstrap(start, [policy for _, policy in tallies], benchmark.metrics)
    return {row.metric: row for row in rows}


def markdown(config: ThreeBases, rows: Sequence[dict[str, Comparison]]) -> str:
    heads = [f"base {base}: start, difference [95 % over images]" for base in config.bases]
    lines = [f"| metric | {' | '.join(heads)} | mean difference over bases [95 %] |", "|---" * (len(heads) + 2) + "|"]
    for metric in config.metrics:
        cells = [
            f"{row[metric].start:.1f}, {row[metric].difference:+.1f} "
            f"[{row[metric].difference_low:+.1f}, {row[metric].difference_high:+.1f}]"
            for row in rows
        ]
        lines.append(f"| {metric} | {' | '.join(cells)} | {over_bases([row[metric].difference for row in rows])} |")
    return "\n".join(lines)


def over_bases(differences: Sequence[float]) -> str:
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = student_half_width(differences)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


if __name__ == "__main__":
    run_job(main, {"toy": ThreeBases()}, "Three base models, three seeds each, against the swap control.")
