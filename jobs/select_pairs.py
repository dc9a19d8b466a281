"""Selects pairs by their hardness, or orders them as a curriculum -> another artifact of pairs.

    python jobs/select_pairs.py --pairs toy-1/toy/ladder-100:900:200 --select.name hard --select.flip-step 100 300
    python jobs/select_pairs.py --select.name middle --select.by reference_margin --select.share 0.33 0.67
    python jobs/select_pairs.py --select.name curriculum --select.by edit_distance --select.order easy-first

It needs no model and no GPU. jobs/train.py takes the pairs that it makes.
"""

from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.pairs.hardness import Select
from seva_ray.runtime.cli import run
from seva_ray.stages.select_pairs import select_pairs


@dataclass(frozen=True, kw_only=True)
class SelectJob(Job):
    """Pairs out of others, by their hardness."""

    pairs: str
    """The pairs that jobs/pair.py or jobs/full.py made: <model>/<prompts>/<view>."""
    logps: str = ""
    """Which reference log-probabilities the margin is from, such as float32, if there are several of these pairs."""
    select: Select = field(default_factory=Select)


def main(config: SelectJob) -> None:
    select_pairs(config.select, config.store(), config.pairs, config.logps)


PRESETS = {
    name: SelectJob(pairs=f"{name}-1/toy/diffusion-300", select=Select(name="hard", share=(0.0, 0.5)))
    for name in ("toy", "toy-qwen")
}

if __name__ == "__main__":
    run(main, PRESETS, "Select pairs by their hardness.", USUAL)
