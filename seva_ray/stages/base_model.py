"""base_model: the model that a run starts from: a directory, a policy, or the toy base, trained once as an artifact."""

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.checks import check_artifact_name
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import ConfigError
from seva_ray.core.imports import quick_imports
from seva_ray.core.outlines import local_outline
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import absolute, exists
from seva_ray.runtime.actors import results_of
from seva_ray.runtime.cluster import join
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.log_relay import log_relay
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.runtime.resources import TASK, Need, check_places
from seva_ray.toy.recipe import ToyQwenRecipe, ToyRecipe
from seva_ray.vlm.families import check_image_options, check_served
from seva_ray.vlm.models import Model, model_at, model_of, name_of, place_of

TOY, TOY_QWEN = "toy", "toy-qwen"
"""These names in place of a model directory mean the toy bases, a LLaVA and a Qwen2.5-VL. `toy-2` and `toy-qwen-2` mean
those with seed 2."""

TOY_NAME = re.compile(rf"({TOY}|{TOY_QWEN})(?:-(\d+))?")

TRAINING = "toy base: training"
"""The text of the heartbeat while a toy base is trained."""


def check_start(store: Store, model: str, image_options: str = "") -> None:
    """Make checks that need no weights, before the first stage. `image_options`: other settings of its image processor.
    Raises: InputError if `starting_model` would, or if the model cannot be served with these settings."""
    if is_policy(model):
        store.find(model)
    elif not is_toy(model):
        place = place_of(model)
        check_served(local_outline(place))
        check_image_options(local_outline(place), image_options)
        name_of(place)


def check_name(name: str, model: str, recipe: ToyRecipe) -> None:
    """Raises: ConfigError if no artifact can have the policy's name, or if it is that of its starting model, because
    scores are stored by name."""
    check_artifact_name(f"policies/{name}")
    if name_of_start(model, recipe) == name:
        raise ConfigError(f"name {name}: this is the starting model's name; choose another name for the policy")


def check_starts(models: Sequence[str], recipe: ToyRecipe) -> None:
    """Raises: ConfigError if two models would have the same name, because responses are stored by name."""
    named: dict[str, str] = {}
    for model in models:
        other = named.setdefault(name_of_start(model, recipe), model)
        if other.rstrip("/") != model.rstrip("/"):
            raise ConfigError(f"models {other} and {model}: both have the name {name_of_start(model, recipe)}")


def name_of_start(model: str, recipe: ToyRecipe) -> str:
    return toy_name(recipe_of(recipe, model)) if is_toy(model) else name_of(absolute(model))


def is_toy(model: str) -> bool:
    return TOY_NAME.fullmatch(model) is not None


def is_policy(model: str) -> bool:
    return model.startswith("policies/") and not exists(model)


def starting_models(store: Store, models: Sequence[str], recipe: ToyRecipe) -> list[Model]:
    """The models by these names. Toy bases that are not yet trained are trained side by side on the cluster."""
    toys = sorted({model for model in models if is_toy(model)})
    if any(not open_toy(store, recipe_of(recipe, model)).complete for model in toys):
        join()
        check_places(Need("the training of a toy base", 1, TASK))
        with log_relay(TRAINING) as relay:
            list(results_of(make_toy, [(store, model, recipe, relay) for model in toys], TRAINING))
    return [starting_model(store, model, recipe) for model in models]


def make_toy(store: Store, model: str, recipe: ToyRecipe, relay: Any) -> None:
    starting_model(store, model, recipe, report=lambda line: relay.send.remote(f"{model}: {line}"))


def as_named_before(store: Store, model: Model) -> Model:
    """The model by its own name, unless this root has responses only of another name with the same files: then a
    directory was renamed, and the model keeps its first name, so that those responses are found."""
    if exists(store.uri(f"responses/{model.name}")):
        return model
    names = {name.split("/")[1]: name for name in store.names("responses")}
    for former, name in names.items():
        if store.find(name).recipe["config"].get("model") == model.fingerprint:
            say(f"model {model.name}: has the same files as {former}, and its results are stored under that name")
            return replace(model, name=former)
    return model


def recipe_of(recipe: ToyRecipe, model: str) -> ToyRecipe:
    """The recipe of the toy base `model`: these settings, for its family and its seed."""
    found = TOY_NAME.fullmatch(model)
    assert found is not None, model
    family, seed = found.groups()
    settings = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    kind = ToyQwenRecipe if family == TOY_QWEN else ToyRecipe
    return kind(**settings | ({"seed": int(seed)} if seed else {}))


def toy_name(recipe: ToyRecipe) -> str:
    return f"{TOY_QWEN if isinstance(recipe, ToyQwenRecipe) else TOY}-{recipe.seed}"


def open_toy(store: Store, recipe: ToyRecipe) -> Artifact:
    return store.open(f"models/{toy_name(recipe)}", config=recipe)


def starting_model(store: Store, model: str, recipe: ToyRecipe, report: Callable[[str], None] = say) -> Model:
    """The model in the directory `model`, the policy `policies/<name>`, or for the name of a toy base the model that
    `recipe` makes."""
    if is_policy(model):
        return model_of(store.find(model))
    if not is_toy(model):
        with waiting(f"{model}: reading its files"):
            return as_named_before(store, model_at(model))
    recipe = recipe_of(recipe, model)
    toy = made_once(
        store, lambda: open_toy(store, recipe), lambda artifact: trained_toy(artifact, recipe, report), counted=False
    )
    return model_of(toy)


def trained_toy(artifact: Artifact, recipe: ToyRecipe, report: Callable[[str], None]) -> Artifact:
    """Train the toy base, while no other job does it."""
    with waiting(TRAINING), scratch_directory("seva-toy-") as scratch:
        with quick_imports():
            from seva_ray.toy.sft import train  # imports torch and transformers, which takes seconds

        counts = train(recipe, f"{scratch}/model", report=report)
        artifact = artifact.begin()
        write_directory(artifact.path("model"), f"{scratch}/model")
    return artifact.finish(counts)
