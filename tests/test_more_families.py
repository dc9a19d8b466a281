"""Families that nothing here was written for: what follows the conventions is exact, the rest is one line."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from seva_ray.core.errors import InputError
from seva_ray.dpo import logps
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.layout_check import check_layouts, generated
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model
from seva_ray.engines.vllm_models import check_attention
from seva_ray.private.transformers import vision_language_model_types
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.views import Viewer
from tests.every_model import BARE, EVERY, outcome, save_every
from tests.family_pictures import pairs
from tests.tiny_models import FAMILIES

__all__ = ["pairs"]

NO_TEMPLATE = "it has no chat template"
NO_TIMM = "transformers cannot make it (TimmWrapperModel requires the timm library but it was not found"
OTHER_PIXELS = "which would have no noise"
REFUSED = {
    "instructblip": NO_TEMPLATE,
    "emu3": "its config.json has no vision_config",
    "got_ocr2": NO_TEMPLATE,
    "deepseek_vl_hybrid": OTHER_PIXELS,
    "video_llava": "its image processor makes pixel_values_images, and no pixel_values",
    "step3p7": OTHER_PIXELS,
    "perception_lm": "its processor fails on several images at once",
    "fast_vlm": NO_TIMM,
    "gemma3n": NO_TIMM,
    "florence2": NO_TEMPLATE,
    "blip": NO_TEMPLATE,
    "blip-2": NO_TEMPLATE,
    "git": NO_TEMPLATE,
    "idefics": NO_TEMPLATE,
    "kosmos-2": NO_TEMPLATE,
    "kosmos-2.5": NO_TEMPLATE,
    "pix2struct": NO_TEMPLATE,
    "pp_formulanet": NO_TEMPLATE,
    "deepseek_ocr2": "an image of 1600 x 1200 pixels its processor makes pixels of an image also as pixel_values_local",
    "diffusion_gemma": "does not answer token by token, so its answers have no log-probabilities",
    "shieldgemma2": "the model's processor cannot read an image",
    "pp_chart2table": "object has no attribute 'image_token'",
    "instructblipvideo": "it has no image processor",
} | dict.fromkeys(BARE, "its config.json has no vision_config")
FIRST = ("emu3", "fuyu", "instructblip", "video_llava", "step3p7", "gemma3n", "deepseek_ocr2", "diffusion_gemma")
"""Between them: each reason."""
PLAIN_ONLY = (
    *("qwen3_5", "qwen3_5_moe", "lfm2_vl", "minicpmv4_6", "minicpmv4_7", "qwen4_exp", "glm5_next", "nemotron_h_omni"),
    *("inkling_mm_model", "llama4"),
)
"""Linear attention and convolutions read all tokens before them, whatever a mask says: responses cannot share a
prompt. Llama 4's chunks are longer than any row that is tried."""
NOT_SCORED = ("minimax_m3_vl", "gemma4_unified")
"""In transformers 5.19, the vision tower of MiniMax-M3-VL lets the images of a batch see each other. Gemma 4 Unified
sees an image in both directions in all layers, unlike Gemma 4, and no configuration says so."""
USUAL = ("qwen3_5", "gemma4", "hunyuan_vl", "minicpmv4_6", "inkling_mm_model", "glm5_next", "llama4")
"""Between them: layers without attention; layers of which some see an image in both directions; images that are
counted; patches that lie side by side; an axis of equal frames; layers that read a mask of padding alone;
pixels in bfloat16."""


def test_every_family_that_transformers_knows_is_tried():
    tried = {*FAMILIES, *EVERY, *BARE, "mllama"} - {"llava_interleave", "pixtral"}  # two of LLaVA's model type
    assert tried == vision_language_model_types()


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in REFUSED]
)
def test_what_does_not_follow_the_conventions_is_refused_in_one_line(name: str, tmp_path: Path):
    if REFUSED[name] == NO_TIMM and find_spec("timm"):
        pytest.skip("timm is installed")
    line = outcome(name, tmp_path, weights=False)
    assert REFUSED[name] in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "name",
    [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in EVERY if name not in REFUSED],
)
def test_what_follows_the_conventions_is_scored_exactly(name: str, pairs, tmp_path: Path):
    assert outcome(name, tmp_path) == "served"
    viewer = Viewer(encoder=Encoder(str(tmp_path)), image_root=None, max_pixels=MAX_PIXELS)
    model = load_model(str(tmp_path), "float32").eval()
    if name in NOT_SCORED:
        with pytest.raises(InputError, match=f"'{name}' cannot be scored exactly: log-probabilities are off"):
            check_layouts(model, viewer, pairs, packed=True)
        return
    refused = check_layouts(model, viewer, pairs, packed=True)
    assert (refused is not None) == (name in PLAIN_ONLY)
    answers = [generated(model, viewer, pair) for pair in pairs]
    rows = [
        pair | {"chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]}
        for pair, (first, second) in zip(pairs, answers, strict=True)
    ]
    expected = torch.tensor([[float(answer.logps.sum()) for answer in row] for row in answers])
    for packed in (False, True) if refused is None else (False,):
        with torch.no_grad():
            found = response_logps(model, PreferenceCollator(viewer=viewer, packed=packed)(rows))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# Gemma 4: in layers with a window, the tokens of an image see each other in both directions.


def gemma4(directory: Path, **text: Any) -> tuple[Any, Viewer]:
    """Its model with other values in the configuration of its language model."""
    save_every("gemma4", directory)
    settings = directory / "config.json"
    config = json.loads(settings.read_text())
    config["text_config"] |= text
    settings.write_text(json.dumps(config))
    viewer = Viewer(encoder=Encoder(str(directory)), image_root=None, max_pixels=MAX_PIXELS)
    return load_model(str(directory), "float32").eval(), viewer


def test_an_image_that_is_larger_than_the_window_of_gemma_4_is_scored_exactly(pairs, tmp_path: Path, monkeypatch):
    model, viewer = gemma4(tmp_path, sliding_window=4)
    assert viewer.encoder.row("?", viewer.image(pairs[0])).num_image_tokens > 4
    assert check_layouts(model, viewer, pairs, packed=True) is None
    # What both kinds of layers see differs: neither may see what the other does.
    in_windows = logps.in_windows
    for wrong in (
        lambda mask, near, positions, config: in_windows(near, near, positions, config),
        lambda mask, near, positions, config: in_windows(mask, mask, positions, config),
    ):
        monkeypatch.setattr(logps, "in_windows", wrong)
        with pytest.raises(InputError, match="log-probabilities are off"):
            check_layouts(model, viewer, pairs, packed=True)


def test_gemma_4_whose_tokens_see_the_earlier_ones_alone_is_scored_exactly_and_goes_to_vllm(pairs, tmp_path: Path):
    """The smaller models of Gemma 4 are configured like this."""
    model, viewer = gemma4(tmp_path, use_bidirectional_attention=None)
    assert check_layouts(model, viewer, pairs, packed=True) is None
    check_attention(viewer.encoder, on_cpu=True)


def test_vllm_on_a_cpu_does_not_get_gemma_4_whose_images_see_themselves(tmp_path: Path):
    save_every("gemma4", tmp_path, weights=False)
    encoder = Encoder(str(tmp_path))
    check_attention(encoder, on_cpu=False)
    with pytest.raises(InputError, match="see each other in both directions, which vLLM does not do on a CPU"):
        check_attention(encoder, on_cpu=True)
