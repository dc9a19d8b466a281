"""Families that nothing here was written for: what follows the conventions is exact, the rest is one line."""

from pathlib import Path

import pytest
import torch

from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.layout_check import check_layouts, generated
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.views import Viewer
from tests.more_models import MORE, outcome
from tests.test_family_training import pairs

__all__ = ["pairs"]

REFUSED = {
    "ovis2": "its prompt does not have the token",
    "instructblip": "it has no chat template",
    "emu3": "is not a vision-language model",
}
PLAIN_ONLY = ("qwen3_5",)
"""Linear attention reads all tokens before it, whatever a mask says: responses cannot share a prompt."""
USUAL = ("qwen3_5", "video_llama_3")
"""Between them: layers without attention, and logits of all tokens."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_follow_the_conventions_is_refused_in_one_line(name: str, tmp_path: Path):
    line = outcome(name, tmp_path)
    assert REFUSED[name] in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "name",
    [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in MORE if name not in REFUSED],
)
def test_what_follows_the_conventions_is_scored_exactly(name: str, pairs, tmp_path: Path):
    assert outcome(name, tmp_path) == "served"
    viewer = Viewer(encoder=Encoder(str(tmp_path)), image_root=None, max_pixels=MAX_PIXELS)
    model = load_model(str(tmp_path), "float32").eval()
    refused = check_layouts(model, viewer, pairs, packed=True)
    assert (refused is not None) == (name in PLAIN_ONLY)
    answers = [generated(model, viewer, pair) for pair in pairs]
    rows = [
        pair | {"chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]}
        for pair, (first, second) in zip(pairs, answers, strict=True)
    ]
    with torch.no_grad():
        found = response_logps(model, PreferenceCollator(viewer=viewer, packed=refused is None)(rows))
    expected = torch.tensor([[float(answer.logps.sum()) for answer in row] for row in answers])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
