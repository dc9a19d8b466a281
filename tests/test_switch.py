"""One pool of engines answers for several models: each as if it had been loaded alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, Engine, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.private.vllm import load_weights
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate, generate_all
from seva_ray.stages.prepare import Prepare, prepare, shard_name
from seva_ray.toy.model import build, save
from seva_ray.vlm.models import Model, architecture, model_at
from tests.conftest import random_model

ENGINES = (
    pytest.param(TransformersEngine(), 6, marks=pytest.mark.slow),
    # More tokens at once than vLLM takes in one step.
    (VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True), 24),
)

SAMPLED = ("sampled-1", "sampled-1=2")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another set of random weights in the same architecture."""
    return random_model(tmp_path_factory.mktemp("models") / "other", seed=6)


def tokens(prompts: Artifact, responses: Artifact) -> list[list[int]]:
    names = map(shard_name, range(prompts.counts["num_shards"]))
    return [ids for name in names for ids in read_table(responses.path(name))["token_ids"].to_pylist()]


@pytest.mark.parametrize(("engine", "num_images"), ENGINES, ids=lambda value: type(value).__name__)
def test_engines_that_take_the_weights_of_one_model_after_the_other_answer_as_if_loaded_with_them(
    ray_cluster: None, toy_model: str, other_model: str, tmp_path: Path, engine: Engine, num_images: int
):
    store, alone = Store(str(tmp_path / "together")), Store(str(tmp_path / "alone"))
    models = [model_at(toy_model), model_at(other_model)]
    config = Generate(engine=engine, decoding=Decoding(max_new_tokens=8), system="")  # type: ignore[arg-type]
    prompts = prepare(Prepare(shard_size=96), store, "toy", ToyWorld(num_images=num_images))
    work = [(model, prompts, view) for view in ("clean", "diffusion-500", *SAMPLED) for model in models]
    together = generate_all(config, store, [*work, work[0]])
    assert together[0].name == together[-1].name, "asked for twice, answered once"
    assert len({artifact.name for artifact in together}) == 8
    first, other = (tokens(prompts, artifact) for artifact in together[:2])
    assert first != other
    prompts = prepare(Prepare(shard_size=96), alone, "toy", ToyWorld(num_images=num_images))
    clean, drawn = generate(config, alone, models[1], [(prompts, "clean"), (prompts, SAMPLED[0])])
    assert tokens(prompts, clean) == other
    draws = [tokens(prompts, artifact) for artifact in (together[5], together[7])]
    assert tokens(prompts, drawn) == draws[0] != draws[1], "a draw does not depend on what is answered beside it"
    assert other not in draws


def test_an_engine_whose_prefix_cache_still_holds_what_the_old_weights_computed_does_not_go_on():
    """vLLM refuses to clear it while a request holds a part of it, and says so only by what it returns."""
    llm = SimpleNamespace(collective_rpc=lambda *_, **__: None, reset_prefix_cache=lambda: False)
    with pytest.raises(RuntimeError, match="prefix cache"):
        load_weights(llm, "other")


def test_models_of_another_architecture_are_told_apart_whatever_their_names_and_versions(
    toy_model: str, tmp_path: Path
):
    assert architecture(toy_model)
    config = Path(toy_model, "config.json").read_text()

    def changed(old: str, new: str) -> str:
        directory = tmp_path / new.strip('"')
        directory.mkdir()
        assert old in config
        (directory / "config.json").write_text(config.replace(old, new))
        (directory / "generation_config.json").write_bytes(Path(toy_model, "generation_config.json").read_bytes())
        return architecture(str(directory))

    assert changed('"transformers_version"', '"_name_or_path"') == architecture(toy_model)
    assert changed('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05') != architecture(toy_model)
    assert architecture(str(tmp_path)) == ""


def test_models_that_are_not_alike_have_pools_of_their_own(ray_cluster: None, toy_model: str, tmp_path: Path):
    small = build(seed=1)
    save(small, tmp_path / "small")
    config = Path(tmp_path, "small", "config.json")
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    models: list[Model] = [model_at(toy_model), model_at(str(tmp_path / "small"))]
    store = Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=2))
    generation = Generate(engine=TransformersEngine(), decoding=Decoding(max_new_tokens=4), system="")
    answered = generate_all(generation, store, [(model, prompts, "clean") for model in models])
    assert tokens(prompts, answered[0]) != tokens(prompts, answered[1])
