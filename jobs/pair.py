"""Compares the responses of two views -> the artifact `pairs/<model>/<prompts>/<view>`. It needs no model and no GPU.

    python jobs/pair.py --prompts toy --model toy-1 --views diffusion-300
    python jobs/pair.py --pair.name short --pair.filters.repetition 2 --pair.filters.length-ratio 0.5 2

Other rules need another name, or the old pairs removed: `diffusion-300+short` stands beside `diffusion-300`, and
jobs/train.py takes either.
"""

from dataclasses import dataclass, field

from presets import MODELS, USUAL, Job
from seva_ray.augmentations import CLEAN
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.pair import Pair, pair


@dataclass(frozen=True, kw_only=True)
class PairJob(Job):
    """Pairs from responses that jobs/generate.py made."""

    prompts: str
    """Name of the prompt set."""
    model: str
    """Name of the model that answered: the directory under `responses/`."""
    views: tuple[str, ...]
    """The rejected view; several are kept together in one pair per prompt."""
    chosen: str = CLEAN
    """The view of the chosen answers: clean, or ground-truth if jobs/full.py has stored the data set's own answers."""
    pair: Pair = field(default_factory=Pair)

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("views: at least one rejected view is needed")


def main(config: PairJob) -> None:
    store = config.store()
    prompts = store.find(f"prompts/{config.prompts}")
    chosen, *rejected = (
        store.find(f"responses/{config.model}/{config.prompts}/{view}") for view in (config.chosen, *config.views)
    )
    with cluster():
        pair(config.pair, store, prompts, chosen, rejected)


PRESETS = {
    **{name: PairJob(prompts="toy", model=f"{name}-1", views=("diffusion-300",)) for name in ("toy", "toy-qwen")},
    **{
        name: PairJob(prompts="llava-mix", model=of.name, views=(of.view,), pair=of.pair) for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Make pairs from responses.", USUAL)
