"""Writes static pages on which all pairs can be filtered and looked through, without a server.

    python jobs/browse.py --pairs toy-1/toy/diffusion-300 --browse.to pairs-pages
    python jobs/browse.py --policy toy     # with the margins after training, of 1,000 pairs or a few more

Pages of pairs that a policy was trained on have their margins before training. With `--policy` the policy scores a
sample of the pairs too, on the GPUs or CPUs of the cluster.
"""

from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.browse import Browse, browse
from seva_ray.stages.margins import Margins, margins


@dataclass(frozen=True, kw_only=True)
class BrowseJob(Job):
    """Every verdict of an artifact of pairs, to look through."""

    pairs: str
    """The pairs that jobs/pair.py made: <model>/<prompts>/<view>."""
    policy: tuple[str, ...] = ()
    """Policies of this root. Their margins, after training, are measured and stand beside those before training."""
    margins: Margins = field(default_factory=Margins)
    browse: Browse = field(default_factory=lambda: Browse(to="pairs-pages"))


def main(config: BrowseJob) -> None:
    store, name = Store(config.root), f"pairs/{config.pairs.removeprefix('pairs/')}"
    with cluster():
        for policy in config.policy:
            margins(config.margins, store, store.find(name), store.find(f"policies/{policy.removeprefix('policies/')}"))
    browse(config.browse, store, name)


PRESETS = {name: BrowseJob(pairs=f"{name}-1/toy/diffusion-300") for name in ("toy", "toy-qwen")}

if __name__ == "__main__":
    run(main, PRESETS, "Write pages on which all pairs can be looked through.", USUAL)
