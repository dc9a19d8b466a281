"""Trains a policy on pairs -> the artifact `policies/<name>`.

python jobs/train.py --name beta02 --pairs toy-1/toy/diffusion-300 --train.beta 0.2
"""

from dataclasses import dataclass, field, replace

from presets import MODELS, TOY_TRAIN, USUAL, ModelJob
from seva_ray.dpo.config import Train
from seva_ray.runtime.cli import run
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.base_model import starting_model
from seva_ray.stages.training.train import train


@dataclass(frozen=True, kw_only=True)
class TrainJob(ModelJob):
    """Train a policy on pairs."""

    name: str
    """Names the policy."""
    pairs: str
    """The pairs that jobs/pair.py made: <model>/<prompts>/<view>."""
    model: str
    """The model that answered: its directory, or `toy`."""
    train: Train = field(default_factory=Train)


def main(config: TrainJob) -> None:
    store = config.store()
    pairs = store.find(f"pairs/{config.pairs}")
    model = starting_model(store, config.model, config.toy)
    with cluster():
        train(config.train, store, config.name, model, pairs)


TOY = TrainJob(name="toy", pairs="toy-1/toy/diffusion-300", model="toy", train=TOY_TRAIN)
PRESETS = {
    "toy": TOY,
    "toy-qwen": replace(TOY, name="toy-qwen", pairs="toy-qwen-1/toy/diffusion-300", model="toy-qwen"),
    **{name: TrainJob(name=name, pairs=of.pairs, model=of.model, train=of.train) for name, of in MODELS.items()},
}

if __name__ == "__main__":
    run(main, PRESETS, "Train a policy on pairs.", USUAL)
