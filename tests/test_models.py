"""Models: one name and one fingerprint for one set of weights, wherever it lies."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import InputError
from seva_ray.core.node_cache import local_directory
from seva_ray.vlm.models import model_at, model_of


@pytest.fixture
def copy(toy_model, tmp_path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "copy"))


def test_a_model_is_named_after_its_directory_and_known_by_its_files(toy_model, copy):
    model = model_at(f"{copy}/")
    assert model.name == "copy"
    assert model.fingerprint == model_at(toy_model).fingerprint
    assert local_directory(model.directory) == str(copy)


def test_another_weight_or_another_setting_is_another_fingerprint(toy_model, copy):
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    one_bit = model_at(str(copy)).fingerprint
    config = copy / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 3}))
    assert len({model_at(toy_model).fingerprint, one_bit, model_at(str(copy)).fingerprint}) == 3


def test_another_chat_template_is_another_fingerprint(toy_model, copy):
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT", "ANSWER"))
    assert model_at(str(copy)).fingerprint != model_at(toy_model).fingerprint


def test_notes_beside_a_model_do_not_change_it(toy_model, copy):
    (copy / "README.md").write_text("A model.")
    assert model_at(str(copy)).fingerprint == model_at(toy_model).fingerprint


def test_a_model_in_an_object_store_is_the_same_model(toy_model, copy, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    uri = "memory://seva-models/toy"
    write_directory(uri, str(copy))
    try:
        model = model_at(uri)
        assert (model.name, model.directory) == ("toy", uri)
        assert model.fingerprint == model_at(toy_model).fingerprint
        assert (Path(local_directory(model.directory)) / "config.json").is_file()
    finally:
        fsspec.filesystem("memory").rm("/seva-models", recursive=True)


def test_a_place_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match=f"model {tmp_path}/nothing: no such directory"):
        model_at(f"{tmp_path}/nothing")
    with pytest.raises(InputError, match="memory://seva-models/nothing: no such directory"):
        model_at("memory://seva-models/nothing")


def test_a_trained_policy_is_a_model_known_by_its_recipe(tmp_path):
    artifact = Store(str(tmp_path)).open("policies/beta02", config={"beta": 0.2})
    model = model_of(artifact)
    assert (model.name, model.directory) == ("beta02", f"{tmp_path}/policies/beta02/model")
    assert model.fingerprint == artifact.fingerprint
