"""Generates answers in views -> the artifacts `responses/<model>/<prompts>/<view>`; only missing ones are made.

python jobs/generate.py --prompts toy --views clean diffusion-300 diffusion-500
"""

from dataclasses import dataclass, field, replace

from presets import MODELS, TOY_GENERATE, USUAL, ModelJob
from seva_ray.augmentations import CLEAN, parse_view
from seva_ray.core.errors import ConfigError
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import check_start, starting_model
from seva_ray.stages.generate import generate
from seva_ray.stages.regenerate import check_regeneration


@dataclass(frozen=True, kw_only=True)
class GenerateJob(ModelJob):
    """Responses of a model."""

    prompts: str
    """Name of a prompt set that jobs/prepare.py made."""
    model: str
    """A model directory, a policy of this root (`policies/<name>`), or `toy`."""
    views: tuple[str, ...] = (CLEAN, "diffusion-500")
    """Views of the images: clean, or augmentations such as diffusion-500 or moco; jobs/gallery.py shows them all."""
    generate: Generate = field(default_factory=Generate)

    def __post_init__(self) -> None:
        if not self.views:
            raise ConfigError("views: at least one is needed")
        for view in self.views:
            parse_view(view)


def main(config: GenerateJob) -> None:
    store = config.store()
    check_start(store, config.model, config.generate.image_options)
    check_regeneration(config.generate, config.views)
    prompts = store.find(f"prompts/{config.prompts}")
    model = starting_model(store, config.model, config.toy)
    with cluster():
        generate(config.generate, store, model, [(prompts, view) for view in config.views])


TOY = GenerateJob(prompts="toy", model="toy", views=(CLEAN, "diffusion-300"), generate=TOY_GENERATE)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, model="toy-qwen"),
    **{
        name: GenerateJob(prompts="llava-mix", model=of.model, views=(CLEAN, of.view), generate=of.generate)
        for name, of in MODELS.items()
    },
}

if __name__ == "__main__":
    run(main, PRESETS, "Generate a model's responses to prompts, in every view.", USUAL)
