"""start: the model that a run begins with: a directory made elsewhere, or the toy base, trained once as an artifact."""

import tempfile

from seva_ray.artifacts import Store
from seva_ray.encoding import check_model
from seva_ray.models import Model, model_at, model_of
from seva_ray.stages.progress import say
from seva_ray.storage import exists, local_directory, write_directory
from seva_ray.toy.sft import ToyRecipe, train

TOY = "toy"
"""Names the toy base where a model directory is expected."""


def check_start(store: Store, model: str) -> None:
    """Cheap checks before the first stage. Raises: InputError where `starting_model` would."""
    if is_policy(model):
        store.find(model)
    elif model != TOY:
        check_model(local_directory(model))


def is_policy(model: str) -> bool:
    return model.startswith("policies/") and not exists(model)


def starting_model(store: Store, model: str, recipe: ToyRecipe) -> Model:
    """The model in directory `model`, or the policy `policies/<name>`; or for `toy` the one that `recipe` makes."""
    if is_policy(model):
        return model_of(store.find(model))
    if model != TOY:
        return model_at(model)
    artifact = store.open(f"models/toy-{recipe.seed}", config=recipe)
    if not artifact.complete:
        with tempfile.TemporaryDirectory(prefix="seva-toy-") as scratch:
            counts = train(recipe, f"{scratch}/model", report=say)
            write_directory(artifact.path("model"), f"{scratch}/model")
        artifact = artifact.finish(counts)
    return model_of(artifact)
