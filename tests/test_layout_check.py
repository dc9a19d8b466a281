"""A model is scored exactly or not at all: no layout of ours is taken at its own word."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.dpo.batch import NOTHING, layout
from seva_ray.dpo.layout_check import check_layouts, generated
from seva_ray.dpo.policy import load_model
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.views import Viewer


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Prompts of three lengths, each with two answers."""
    rows = []
    for number, question in enumerate(("how many objects are there ?", "what color is the ring ?", "how many ?")):
        file = io.BytesIO()
        Image.fromarray(render(make_scene(7, "test", number))).save(file, "PNG")
        answers = {"chosen_token_ids": [20, 30, 40], "rejected": [{"token_ids": [50, 60]}]}
        rows.append({"image_path": None, "image_bytes": file.getvalue(), "question": question, **answers})
    return rows


def viewer_of(directory: str) -> Viewer:
    return Viewer(encoder=Encoder(directory), image_root=None, max_pixels=MAX_PIXELS)


@pytest.fixture(scope="module")
def viewer(toy_model: str) -> Viewer:
    return viewer_of(toy_model)


def test_both_layouts_of_a_model_that_is_served_agree_with_what_generate_says(toy_model, viewer, pairs):
    for dtype in ("float32", "bfloat16"):
        model = load_model(toy_model, dtype).eval()
        assert check_layouts(model, viewer, pairs, packed=True) is None
        answers = [answer for pair in pairs for answer in generated(model, viewer, pair)]
        assert len({tuple(answer.token_ids) for answer in answers}) == 6, "the same answer twice proves little"
        assert {len(answer.token_ids) for answer in answers} == {8, 5}
        assert all(float(answer.logps.sum()) < -1 for answer in answers)


def test_a_model_that_computes_nan_is_not_scored(toy_model, viewer, pairs):
    model = load_model(toy_model, "float32").eval()
    next(parameter for name, parameter in model.named_parameters() if "gate_proj" in name).data[1, 1] = torch.nan
    with pytest.raises(InputError, match=r"computes NaN in float32: .*; nothing is trained$"):
        check_layouts(model, viewer, pairs, packed=True)


def mangled(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[..., dict[str, torch.Tensor]]:
    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        batch = layout(*arguments)
        change(batch)
        return batch

    return wrong


def responses_at_the_start(batch: dict[str, torch.Tensor]) -> None:
    batch["position_ids"][batch["branch"] > 0] -= 3


def no_branches(batch: dict[str, torch.Tensor]) -> None:
    batch["branch"][batch["branch"] > 1] = 1


def prompt_unseen(batch: dict[str, torch.Tensor]) -> None:
    batch["branch"][:, :6] = NOTHING


def next_token_scored(batch: dict[str, torch.Tensor]) -> None:
    batch["slot"] = batch["slot"].roll(-1, dims=1)


@pytest.mark.parametrize("change", [responses_at_the_start, prompt_unseen, next_token_scored])
def test_a_mistake_in_both_layouts_is_found_out(change, toy_model, viewer, pairs, monkeypatch):
    monkeypatch.setattr("seva_ray.dpo.batch.layout", mangled(change))
    for dtype in ("float32", "bfloat16"):
        model = load_model(toy_model, dtype).eval()
        with pytest.raises(InputError, match=r"model type 'llava' cannot be scored exactly: log-probabilities"):
            check_layouts(model, viewer, pairs, packed=True)


def test_a_mistake_in_the_packed_layout_alone_is_a_reason_to_use_the_other(toy_model, viewer, pairs, monkeypatch):
    """Only the packed layout has several responses in a row."""
    model = load_model(toy_model, "float32").eval()
    monkeypatch.setattr("seva_ray.dpo.batch.layout", mangled(no_branches))
    assert "nats a token from those of `generate`" in str(check_layouts(model, viewer, pairs, packed=True))
    assert check_layouts(model, viewer, pairs, packed=False) is None


def test_a_model_that_ignores_or_refuses_the_packed_mask_is_found_out(toy_model, viewer, pairs):
    model = load_model(toy_model, "float32").eval()
    language = model.model.language_model
    forward = language.forward

    def packed(mask: torch.Tensor | None) -> bool:
        return mask is not None and mask.ndim == 4 and len(mask) == len(pairs)

    def ignore(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(*args, attention_mask=None if packed(attention_mask) else attention_mask, **kwargs)

    def refuse(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if packed(attention_mask):
            raise ValueError("no such mask, please")
        return forward(*args, attention_mask=attention_mask, **kwargs)

    def take_all_memory(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if packed(attention_mask):
            torch.empty(10**15)
        return forward(*args, attention_mask=attention_mask, **kwargs)

    language.forward = ignore
    assert "nats a token from those of `generate`" in str(check_layouts(model, viewer, pairs, packed=True))
    language.forward = refuse
    assert check_layouts(model, viewer, pairs, packed=True) == "no such mask, please"
    language.forward = take_all_memory
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        check_layouts(model, viewer, pairs, packed=True)
