"""Writes static pages on which all pairs can be filtered and looked through, without a server.

python jobs/browse.py --pairs toy-1/toy/diffusion-300 --browse.to pairs-pages
"""

from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.stages.browse import Browse, browse


@dataclass(frozen=True, kw_only=True)
class BrowseJob(Job):
    """Every verdict of an artifact of pairs, to look through."""

    pairs: str
    """The pairs that jobs/pair.py made: <model>/<prompts>/<view>."""
    browse: Browse = field(default_factory=lambda: Browse(to="pairs-pages"))


def main(config: BrowseJob) -> None:
    browse(config.browse, Store(config.root), f"pairs/{config.pairs.removeprefix('pairs/')}")


PRESETS = {name: BrowseJob(pairs=f"{name}-1/toy/diffusion-300") for name in ("toy", "toy-qwen")}

if __name__ == "__main__":
    run(main, PRESETS, "Write pages on which all pairs can be looked through.", USUAL)
