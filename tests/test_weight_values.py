"""Weights that no header shows to be wrong: NaN, infinity, and holes of zeros, as one line before anything starts."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seva_ray.core.errors import InputError
from seva_ray.engines import Decoding, TransformersEngine
from seva_ray.vlm import models, weight_values
from seva_ray.vlm.models import model_at
from seva_ray.vlm.weight_values import check_values

GATE = "language_model.model.layers.0.mlp.gate_proj.weight"


@pytest.fixture
def model(toy_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


def change(model: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def with_nan(weights: dict[str, Tensor]) -> None:
    weights[GATE][1, 1] = math.nan


def with_zeros(weights: dict[str, Tensor]) -> None:
    """The second half of the file, as a download into reserved space leaves it."""
    for name in list(weights)[len(weights) // 2 :]:
        weights[name].zero_()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [(with_nan, f"holds NaN in {GATE}; it must be made or copied again"), (with_zeros, "holds only zeros in ")],
)
def test_a_model_with_such_weights_is_one_line(spoil: Callable[[dict[str, Tensor]], None], line: str, model: Path):
    change(model, spoil)
    with pytest.raises(InputError) as caught:
        model_at(str(model))
    assert str(caught.value).startswith(f"model {model}: model.safetensors {line}")


def saved(directory: Path, **weights: Tensor) -> Path:
    save_file(weights, directory / "w.safetensors")
    return directory / "w.safetensors"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("value", "found"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, ""), (6e4, "")])
def test_each_number_of_each_data_type_is_looked_at(
    dtype: torch.dtype, value: float, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weight_values, "BLOCK_BYTES", 64)
    for place in (0, 7, 8, 98):
        weights = torch.linspace(-1, 1, 99, dtype=dtype)
        weights[place] = value
        file = saved(tmp_path, before=torch.ones(3, 3), w=weights, whole=torch.arange(9))
        if found:
            with pytest.raises(InputError, match=f"w.safetensors holds {found} in w; "):
                check_values(file)
        else:
            check_values(file)


def test_a_matrix_of_zeros_alone_is_no_hole(tmp_path: Path):
    one, zero = torch.ones(4, 4), torch.zeros(4, 4)
    check_values(saved(tmp_path, a=one, b=zero, c=one.clone(), d=zero.clone(), e=one.clone()))
    check_values(saved(tmp_path, a=torch.zeros(4), b=zero, c=torch.zeros(1, 4), d=one))
    with pytest.raises(InputError, match="holds only zeros in b and d; it must be copied again"):
        check_values(saved(tmp_path, a=one, b=zero, c=torch.zeros(4), d=zero.clone()))


def test_what_has_a_kept_digest_has_been_looked_at(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked_at: list[Path] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("seva_ray.core.digests.KEPT_BYTES", 1)
    monkeypatch.setattr("seva_ray.core.digests.SETTLED_S", -1.0)
    monkeypatch.setattr(models, "check_values", looked_at.append)
    assert model_at(str(model)) == model_at(str(model))
    assert looked_at == [model / "model.safetensors"]


def test_an_engine_whose_model_computes_nan_ends_before_its_first_answer(model: Path, toy_model: str):
    """Such as by numbers that are too large for float16. The weights in an object store are not looked at before."""
    engine = TransformersEngine(dtype="float16").load(toy_model, Decoding(max_new_tokens=2))

    def large(weights: dict[str, Tensor]) -> None:
        weights[GATE] *= 1e4
        weights[GATE.replace("gate", "up")] *= 1e4

    change(model, large)
    with pytest.raises(InputError, match=r"computes NaN in float16: .* and --generate.engine.dtype bfloat16 helps$"):
        engine.switch(str(model))
    TransformersEngine(dtype="bfloat16").load(str(model), Decoding(max_new_tokens=2))
    change(model, with_nan)
    with pytest.raises(
        InputError, match=r"computes NaN in bfloat16: a weight is NaN or infinite, so the model must be"
    ):
        TransformersEngine(dtype="bfloat16").load(str(model), Decoding(max_new_tokens=2))
