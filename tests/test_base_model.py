"""The model that a run begins with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.core.storage import exists
from seva_ray.stages.base_model import as_named_before, open_toy, starting_model
from seva_ray.stages.training.train import with_start
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.vlm.models import Model

MODEL = Model(name="first", directory="/data/first", fingerprint="0123456789abcdef")


def test_a_toy_base_whose_training_fails_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*args: Any, **kwargs: Any) -> None:
        raise InputError("it has learned nothing")

    monkeypatch.setattr("seva_ray.toy.sft.train", fails)
    store = Store(str(tmp_path))
    with pytest.raises(InputError, match="learned nothing"):
        starting_model(store, "toy-3", ToyRecipe())
    assert not exists(store.uri("models"))
    assert open_toy(store, ToyRecipe(seed=3, num_images=100)).begin().name == "models/toy-3"


def test_a_model_whose_directory_was_renamed_keeps_its_first_name_and_one_with_other_files_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = Store(str(tmp_path))
    assert as_named_before(store, MODEL) == MODEL
    for model in (MODEL, replace(MODEL, name="other", fingerprint="another")):
        store.open(f"responses/{model.name}/p/clean", config={"model": model.fingerprint}).finish({})
    renamed = replace(MODEL, name="second", directory="/data/second")
    assert as_named_before(store, renamed) == replace(renamed, name="first")
    line = "model second: has the same files as first, and its results are stored under that name\n"
    assert capsys.readouterr().err == line
    for unchanged in (replace(renamed, fingerprint="of other files"), replace(renamed, name="other")):
        assert as_named_before(store, unchanged) == unchanged


def test_the_record_of_a_policy_says_where_its_starting_model_is_now(tmp_path: Path):
    store = Store(str(tmp_path))
    policy = store.open("policies/p", config=1).finish({"num_steps": 7, "start": asdict(MODEL)})
    assert with_start(policy, MODEL) is policy
    moved = replace(MODEL, directory="/mnt/first")
    assert with_start(policy, moved).counts == {"num_steps": 7, "start": asdict(moved)}
    found = store.find("policies/p")
    assert (found.counts["start"], found.finished) == (asdict(moved), policy.finished)
