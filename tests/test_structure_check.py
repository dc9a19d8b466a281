"""A config.json with a number far too large is one line before a model's parts fill the memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seva_ray.core.errors import InputError
from seva_ray.vlm import structure_check
from seva_ray.vlm.families import check_served
from seva_ray.vlm.structure_check import bounded
from tests.tiny_models import save_family


def family(name: str, directory: Path, weights: bool, **text: Any) -> str:
    place = save_family(name, directory, weights=weights)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"] |= text
    (directory / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (10**9, "config.json: num_local_experts is 1,000,000,000, and at most 1,000,000 are made"),
        (10**6, " weights, but the weight files hold only "),
    ],
)
def test_too_many_experts_are_one_line(number: int, line: str, tmp_path: Path):
    place = family("qwen3_vl_moe", tmp_path / "model", weights=True, num_local_experts=number)
    with pytest.raises(InputError) as caught:
        check_served(place)
    assert str(caught.value).startswith(f"model {place}: ")
    assert line in str(caught.value)


def make(num_bytes: int, part: Callable[[], nn.Module]) -> list[nn.Module]:
    """Make as many parts as are allowed, with weights of so many bytes. None has memory for its weights."""
    made: list[nn.Module] = []
    with pytest.raises(InputError, match=r"model somewhere: config\.json describes ") as caught:
        keep_making(num_bytes, part, made)
    print(caught.value)
    return made


def keep_making(num_bytes: int, part: Callable[[], nn.Module], made: list[nn.Module]) -> None:
    with torch.device("meta"), bounded("somewhere", num_bytes):
        while True:
            made.append(part())


def test_a_model_with_too_many_parts_is_not_made_further(monkeypatch, capsys):
    monkeypatch.setattr(structure_check, "MOST_PARTS", 1000)
    assert len(make(0, lambda: nn.Linear(1, 1))) == 500, "each has a weight and a bias"
    assert len(make(0, lambda: nn.Sequential(nn.ReLU()))) == 1000
    assert capsys.readouterr().out.count("a model of more than 1,000 parts, such as experts\n") == 2


def test_weights_that_no_file_could_hold_end_the_making_early(capsys):
    assert len(make(1000, lambda: nn.Linear(100, 100, bias=False))) == 3
    assert "at least 10,000 weights, but the weight files hold only 1,000 bytes\n" in capsys.readouterr().out
    with torch.device("meta"), bounded("somewhere", 1250):
        shared = nn.Linear(100, 100, bias=False)
        nn.Linear(100, 100, bias=False).weight = shared.weight


def test_what_is_made_afterwards_is_not_counted():
    with torch.device("meta"), bounded("somewhere", 1):
        pass
    nn.Linear(100, 100)
