"""generate alone: prompts x views -> the artifacts `responses/<model>/<prompts>/<view>`; only what is missing is made.

python jobs/generate.py --prompts toy --views clean diffusion-300 diffusion-500
"""

from dataclasses import dataclass, field

from presets import LLAVA_GENERATE, TOY_GENERATE
from seva_ray.augmentations import CLEAN, parse_view
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import starting_model
from seva_ray.stages.generate import Generate, generate
from seva_ray.toy.recipe import ToyRecipe


@dataclass(frozen=True, kw_only=True)
class GenerateJob:
    """Responses of a model."""

    prompts: str
    """Name of a prompt set that jobs/prepare.py made."""
    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""
    model: str
    """A model directory, a policy of this root (`policies/<name>`), or `toy`."""
    views: tuple[str, ...] = (CLEAN, "diffusion-500")
    """Views of the images: clean, or augmentations such as diffusion-500 or moco; jobs/gallery.py shows them all."""
    toy: ToyRecipe = field(default_factory=ToyRecipe)
    """How the toy base is trained, where the model is `toy`."""
    generate: Generate = field(default_factory=Generate)

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("views: at least one is needed")
        for view in self.views:
            parse_view(view)


def main(config: GenerateJob) -> None:
    store = Store(config.root)
    store.check_writable()
    prompts = store.find(f"prompts/{config.prompts}")
    model = starting_model(store, config.model, config.toy)
    with cluster():
        generate(config.generate, store, model, [(prompts, view) for view in config.views])


PRESETS = {
    "toy": GenerateJob(prompts="toy", model="toy", views=(CLEAN, "diffusion-300"), generate=TOY_GENERATE),
    "llava-7b": GenerateJob(prompts="llava-mix", model="llava-1.5-7b-hf", generate=LLAVA_GENERATE),
}

if __name__ == "__main__":
    run(main, PRESETS, "Responses of a model to prompts, in every view.")
