"""Shows one image at more and more noise, the answer at each step, and where it flips -> one page.

    python jobs/generate.py --prompts toy --views clean diffusion-100 diffusion-300 diffusion-500 diffusion-900
    python jobs/ladder.py --prompts toy

It shows the answers that are there, and makes none.
"""

from dataclasses import dataclass, field

from presets import USUAL, ModelJob
from seva_ray.runtime.cli import run
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.ladder import LadderPage, ladder


@dataclass(frozen=True, kw_only=True)
class LadderJob(ModelJob):
    """A page of noise ladders."""

    prompts: str
    """Name of the prompt set."""
    model: str
    """The model that answered: its directory, or `toy`."""
    ladder: LadderPage = field(default_factory=LadderPage)


def main(config: LadderJob) -> None:
    store = config.store()
    check_start(store, config.model)
    prompts = store.find(f"prompts/{config.prompts}")
    print(ladder(config.ladder, store, starting_model(store, config.model, config.toy), prompts), flush=True)


PRESETS = {name: LadderJob(prompts="toy", model=name) for name in ("toy", "toy-qwen")}

if __name__ == "__main__":
    run(main, PRESETS, "Show a model's answers at more and more noise.", USUAL)
