"""train alone: pairs -> the artifact `policies/<name>`.

python jobs/train.py --name beta02 --pairs toy-1/toy/diffusion-300 --train.beta 0.2
"""

from dataclasses import dataclass, field

from presets import LLAVA_TRAIN, TOY_TRAIN
from seva_ray.core.artifacts import Store
from seva_ray.dpo.config import Train
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import starting_model
from seva_ray.stages.training.train import train
from seva_ray.toy.recipe import ToyRecipe


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A policy from pairs."""

    name: str
    """Names the policy."""
    pairs: str
    """The pairs that jobs/pair.py made: <model>/<prompts>/<view>."""
    model: str
    """The model that answered: its directory, or `toy`."""
    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""
    toy: ToyRecipe = field(default_factory=ToyRecipe)
    """How the toy base is trained, where the model is `toy`."""
    train: Train = field(default_factory=Train)


def main(config: TrainJob) -> None:
    store = Store(config.root)
    store.check_writable()
    pairs = store.find(f"pairs/{config.pairs}")
    model = starting_model(store, config.model, config.toy)
    with cluster():
        train(config.train, store, config.name, model, pairs)


PRESETS = {
    "toy": TrainJob(name="toy", pairs="toy-1/toy/diffusion-300", model="toy", train=TOY_TRAIN),
    "llava-7b": TrainJob(
        name="llava-7b", pairs="llava-1.5-7b-hf/llava-mix/diffusion-500", model="llava-1.5-7b-hf", train=LLAVA_TRAIN
    ),
}

if __name__ == "__main__":
    run(main, PRESETS, "A policy from pairs.")
