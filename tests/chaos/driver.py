"""A job that the tests start and kill: every view of every prompt set, on the cluster that RAY_ADDRESS names."""

import time
from dataclasses import dataclass
from pathlib import Path

from seva_ray.core.artifacts import Store
from seva_ray.engines import Decoding, FakeEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.runtime.kept_engines import kept_engines
from seva_ray.stages.generate import generate
from seva_ray.vlm.models import model_at

NUM_ENGINES = 2
"""Number of engines of the preset with the fake engine."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """What is generated from prompts that are ready."""

    generate: Generate
    root: str = ""
    model: str = ""
    prompts: tuple[str, ...] = ("prompts/toy",)
    views: tuple[str, ...] = ("clean",)
    pause: str = ""
    """A file. Each view is a generation of its own, and the engines are kept between them until this file is there."""


PRESETS = {
    "fake": Drive(
        generate=Generate(
            engine=FakeEngine(seconds_per_request=0.01), min_engines=NUM_ENGINES, max_engines=NUM_ENGINES
        ),
        views=("clean", "diffusion-500"),
    ),
    "vllm": Drive(
        generate=Generate(
            engine=VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True),
            decoding=Decoding(max_new_tokens=32),
        ),
    ),
}


def drive(config: Drive) -> None:
    store = Store(config.root)
    model, prompts = model_at(config.model), [store.find(name) for name in config.prompts]
    parts = [(view,) for view in config.views] if config.pause else [config.views]
    with cluster(), kept_engines():
        for views in parts:
            generate(config.generate, store, model, [(item, view) for item in prompts for view in views])
            while config.pause and not Path(config.pause).exists():
                time.sleep(0.1)


if __name__ == "__main__":
    run(drive, PRESETS, "A job for the chaos tests.")
