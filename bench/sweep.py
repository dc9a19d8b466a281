"""bench-sweep: a study of 4 views x 3 betas, against a job for each of the twelve trials -> build/bench/sweep.json.

    python -m bench.sweep        about 25 minutes on two cores

Both sides are the jobs as users run them, with the toy's shapes and random weights, each in a root of its own: the
study is one `jobs/sweep.py`, its rival twelve `jobs/full.py`, one after the other, for the rival has no scheduler.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.figures import Figure, keep, table
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import UserError
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.toy.model import build, save

RESULTS = Path("build/bench/sweep.json")
COMMAND = "python -m bench.sweep"
JOBS = Path(__file__).parent.parent
SOURCE = ("source:toy-world", "--source.num-images")


@dataclass(frozen=True, kw_only=True)
class BenchSweep:
    """The views and betas of the trials."""

    views: tuple[str, ...] = ("diffusion-300", "diffusion-500", "diffusion-700", "diffusion-900")
    betas: tuple[float, ...] = (0.05, 0.1, 0.2)
    num_images: int = 150
    """Scenes to make pairs from, about six questions each."""
    num_pairs: int = 240
    """Pairs of each trial."""


def main(config: BenchSweep) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as scratch:
        model, together, apart = Path(scratch, "base"), Path(scratch, "together"), Path(scratch, "apart")
        with_random_weights(model)
        shared = [
            "--prompts", "toy", "--train.num-pairs", str(config.num_pairs), "--train.num-workers", "1",
            "--train.zero-stage", "0", "--train.trackers", "--benchmarks.toy-images", "60",
            "--benchmarks.toy-cameras", "deployment",
        ]  # fmt: skip
        ending = [*SOURCE, str(config.num_images)]
        study = [
            "sweep.py", "--root", str(together), "--models", str(model), "--name", "study", "--seeds", "0",
            "--space.views", *config.views, "--space.swapped", "--space.curve", "--space.curve-views",
            "--space.betas", *map(str, config.betas), "--no-test-time",
        ]  # fmt: skip
        seconds = timed([*study, *shared, *ending])
        failed = Store(str(together)).find("studies/study").counts["num_failed"]
        if failed:
            raise UserError(f"{failed} points of the study failed; its table says why")
        say(f"one study: {seconds:.0f} s")
        seconds_apart = 0.0
        for view in config.views:
            for beta in config.betas:
                trial = [
                    "full.py", "--root", f"{apart}/{view}-{beta}", "--model", str(model), "--name", "trial",
                    "--views", view, "--controls", "--train.beta", str(beta), "--train.seed", "0",
                ]  # fmt: skip
                seconds_apart += timed([*trial, *shared, *ending])
                say(f"{view}, beta {beta}: {seconds_apart:.0f} s so far")
        passes = num_passes(together), sum(num_passes(root) for root in apart.iterdir())
    figures = keep(RESULTS, figures_of(config, (seconds, seconds_apart), passes))
    print(table(figures))


def with_random_weights(directory: Path) -> None:
    model = build(seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)  # otherwise answers are near ties, and hardly any pair is unequal
    save(model, directory)


def timed(words: Sequence[str]) -> float:
    """Wall time of a job, s."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(JOBS / words[0]), *words[1:]], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{words[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return time.monotonic() - began


def num_passes(root: Path) -> int:
    """Number of passes of models over the training prompts."""
    return sum("/toy/" in name for name in Store(str(root)).names("responses"))


def figures_of(config: BenchSweep, seconds: tuple[float, float], passes: tuple[int, int]) -> list[Figure]:
    trials = len(config.views) * len(config.betas)
    return [
        Figure(
            figure=f"passes over training prompts, {len(config.views)} views x {len(config.betas)} betas",
            ratio=passes[0] / passes[1],
            target=(1 + len(config.views)) / (2 * trials),
            better="lower",
            rival=f"a job for each trial: {passes[0]} over {passes[1]}",
            command=COMMAND,
        ),
        Figure(
            figure=f"wall time, {len(config.views)} views x {len(config.betas)} betas",
            ratio=seconds[0] / seconds[1],
            target=0.5,
            better="lower",
            rival=f"a job for each trial: {seconds[0]:.0f} over {seconds[1]:.0f} s",
            command=COMMAND,
        ),
    ]


if __name__ == "__main__":
    run(main, {"all": BenchSweep()}, "A study against its trials one by one.")
