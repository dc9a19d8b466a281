"""The model that a run begins with."""

from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.core.storage import exists
from seva_ray.stages.base_model import open_toy, starting_model
from seva_ray.toy.recipe import ToyRecipe


def test_a_toy_base_whose_training_fails_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*args: Any, **kwargs: Any) -> None:
        raise InputError("it has learned nothing")

    monkeypatch.setattr("seva_ray.toy.sft.train", fails)
    store = Store(str(tmp_path))
    with pytest.raises(InputError, match="learned nothing"):
        starting_model(store, "toy-3", ToyRecipe())
    assert not exists(store.uri("models"))
    assert open_toy(store, ToyRecipe(seed=3, num_images=100)).begin().name == "models/toy-3"
