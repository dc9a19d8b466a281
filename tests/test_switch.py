"""One pool of engines answers for several models: each as if it had been loaded alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import Response
from seva_ray.core.storage import read_table
from seva_ray.engines import Decoding, Engine, Request, TransformersEngine, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.fake import FakeEncoder
from seva_ray.engines.units import Units
from seva_ray.private.vllm import load_weights
from seva_ray.runtime import metrics
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate, generate_all, open_responses, units_of
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.stages.unit_worker import UnitWorker, encode_units, encoder_of, task_of
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
    names = shards_of(prompts)
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


@dataclass(frozen=True)
class Weights:
    """An engine that answers with what its model's file says. A file that says `half` fails when it is half loaded."""

    kind: ClassVar[str] = "Weights"

    def encoder(self, directory: str, system: str, image_options: str = "") -> FakeEncoder:
        return FakeEncoder(system)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> "Weights":
        self.switch(directory)
        return self

    @property
    def num_unanswered(self) -> int:
        return 0

    def switch(self, directory: str) -> None:
        text = Path(directory, "weights").read_text()
        object.__setattr__(self, "held", text)
        if text == "half":
            raise OSError("the file ends here")

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        held = self.held  # type: ignore[attr-defined]
        return [Response(prompt_id=item.prompt_id, text=held, token_ids=[1], finish_reason="stop") for item in requests]


def units_to_answer(config: Generate, model: Model, prompts: Artifact, root: Path) -> Units:
    return units_of(model, prompts, "clean", open_responses(config, Store(str(root)), model, prompts, "clean"))


def asked(worker: UnitWorker, config: Generate, model: Model, prompts: Artifact, root: Path) -> set[str]:
    """All that a worker answers for a model."""
    units = units_to_answer(config, model, prompts, root)
    worker(encode_units({"units": [task_of(units)["units"]]}, config))
    return {text for unit in units for text in read_table(unit.responses_uri)["text"].to_pylist()}


def test_an_engine_that_could_not_load_other_weights_answers_only_after_it_has_loaded_the_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(metrics, "watch", lambda generator: None)
    models = {}
    for name in ("first", "half", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        models[name] = Model(name=name, directory=str(tmp_path / name), fingerprint=name)
    prompts = prepare(Prepare(), Store(str(tmp_path)), "toy", ToyWorld(num_images=1))
    config = Generate(engine=Weights())  # type: ignore[arg-type]
    worker = UnitWorker(config.engine, config.decoding, (models["first"].directory, "first "))
    assert asked(worker, config, models["first"], prompts, tmp_path / "1") == {"first"}
    with pytest.raises(OSError, match="ends here"):
        asked(worker, config, models["half"], prompts, tmp_path / "2")
    assert asked(worker, config, models["first"], prompts, tmp_path / "3") == {"first"}
    assert asked(worker, config, models["other"], prompts, tmp_path / "4") == {"other"}

    (tmp_path / "other" / "weights").write_text("made again")
    again = replace(models["other"], contents="new")
    assert asked(worker, config, again, prompts, tmp_path / "5") == {"made again"}, "one directory, two models"
    encoders = [
        encoder_of(config, units_to_answer(config, model, prompts, tmp_path)[0]) for model in (models["other"], again)
    ]
    assert encoders[0] is not encoders[1], "its tokenizer may be another one too"


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
