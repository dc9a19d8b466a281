"""What a preflight says of a node's GPUs. There is none here, so a node's answers are made up, as torch gives them."""

import pytest
import torch

from seva_ray.core.errors import InputError
from seva_ray.runtime import preflight
from seva_ray.runtime.preflight import card_of, multiply

NODE = {"NodeManagerAddress": "10.0.0.7", "Resources": {"CPU": 8.0, "GPU": 2.0, "training": 2.0, "node:10.0.0.7": 1.0}}
ANSWER = {
    "torch": "2.13.0+cu130",
    "driver": "580.95.05",
    "error": "",
    "name": "NVIDIA L4",
    "number": 2,
    "gib": 22.0,
    "free_gib": 21.7,
    "capability": (8, 9),
    "tflops": 60.0,
}


def test_a_node_whose_gpus_work_says_what_they_are_and_what_they_are_for():
    card = card_of(NODE, ANSWER)
    assert (card.name, card.number, card.gib, card.kinds) == ("NVIDIA L4", 2, 22.0, ("training",))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"error": "torch 2.13.0+cu130 can use 1 of them"},
            "node 10.0.0.7: Ray counts 2 GPUs, but torch 2.13.0+cu130 can use 1 of them",
        ),
        (
            {"name": "Tesla V100-SXM2-16GB", "capability": (7, 0)},
            "node 10.0.0.7: Tesla V100-SXM2-16GB has compute capability 7.0; the locked torch needs NVIDIA driver 580 "
            "or later, and compute capability 7.5 or higher",
        ),
    ],
)
def test_gpus_that_cannot_be_used_are_one_line_with_the_node(changed: dict, line: str):
    with pytest.raises(InputError) as caught:
        card_of(NODE, ANSWER | changed)
    assert str(caught.value) == line


def test_nodes_of_one_shape_are_one_kind_wherever_they_are():
    other = NODE | {"Resources": {"training": 2.0, "GPU": 2.0, "CPU": 8.0, "node:10.0.0.9": 1.0, "memory": 5e9}}
    assert preflight.shape_of(NODE) == preflight.shape_of(other)
    assert preflight.shape_of(NODE) != preflight.shape_of(NODE | {"Resources": {"CPU": 8.0, "GPU": 1.0}})


def test_a_matrix_product_is_timed_and_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "SIDE", 64)
    assert multiply("cpu", num_products=2) > 0
    wrong = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: wrong(one, other) + 1)
    with pytest.raises(RuntimeError, match="cpu multiplies wrongly"):
        multiply("cpu", num_products=2)
