"""The start of a run, as small as training can be tried on: prompts in three shards, three views, pairs."""

from dataclasses import dataclass

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.dpo.config import Train
from seva_ray.engines import Decoding, TransformersEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.training.reference import open_logps, score, scoring
from seva_ray.vlm.models import Model, model_at

VIEWS = ("diffusion-900", "moco")
"""Rejected ones; every pair has both."""


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    store: Store
    model: Model
    prompts: Artifact
    pairs: Artifact


def small_run(root: str, model_directory: str) -> SmallRun:
    store, model = Store(root), model_at(model_directory)
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=5))
    config = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=12), system="")
    chosen, *rejected = generate(config, store, model, [(prompts, view) for view in ("clean", *VIEWS)])
    return SmallRun(store=store, model=model, prompts=prompts, pairs=pair(Pair(), store, prompts, chosen, rejected))


def scored(config: Train, store: Store, model: Model, pairs: Artifact) -> Artifact:
    """The reference log-probabilities of the pairs, made in this process if they are missing."""
    logps = open_logps(config, store, model, pairs)
    if not logps.complete:
        score(scoring(config, store, model, pairs, logps), config)
    return open_logps(config, store, model, pairs)
