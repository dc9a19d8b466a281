"""What the presets say of published models is what their configurations make of them.

The figures are those of each repository's config.json and preprocessor_config.json, read in November 2026. Nothing is
loaded: the structure is built without memory for its weights.
"""

from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image

from presets import PUBLISHED
from seva_ray.vlm.image_options import grids_within, made_smaller, options_of, settings_of
from seva_ray.vlm.model_parts import language_linears
from seva_ray.vlm.model_shape import PHOTOGRAPH

QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    text = QWEN2_7B | {"vocab_size": 152064}
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    config = tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return config, tf.Qwen2VLImageProcessorPil(size=size)


def qwen3_vl() -> tuple[Any, Any]:
    text = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    }
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    config = tf.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return config, tf.Qwen2VLImageProcessorPil(patch_size=16, size=size)


def internvl3() -> tuple[Any, Any]:
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    }
    text = tf.Qwen2Config(**QWEN2_7B, vocab_size=151674, tie_word_embeddings=False)
    config = tf.InternVLConfig(vision_config=vision, text_config=text, image_seq_length=256, tie_word_embeddings=False)
    size = {"height": 448, "width": 448}
    return config, tf.GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=12)


def llava_onevision() -> tuple[Any, Any]:
    places = [[height, width] for height in range(384, 2305, 384) for width in range(384, 2305, 384)]
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**SIGLIP, num_hidden_layers=26),
        text_config=tf.Qwen2Config(**QWEN2_7B, vocab_size=152000, tie_word_embeddings=False),
        image_grid_pinpoints=places,
        tie_word_embeddings=False,
    )
    size = {"height": 384, "width": 384}
    return config, tf.LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=places)


def smolvlm2() -> tuple[Any, Any]:
    text = tf.LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        vocab_size=49280,
        tie_word_embeddings=False,
    )
    vision = {name: value for name, value in SIGLIP.items() if name not in ("model_type", "vision_use_head")}
    config = tf.SmolVLMConfig(
        vision_config=vision | {"num_hidden_layers": 27}, text_config=text, scale_factor=3, tie_word_embeddings=False
    )
    return config, tf.SmolVLMImageProcessorPil(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})


MODELS = {
    "qwen2.5-vl-7b": qwen2_5_vl,
    "qwen3-vl-8b": qwen3_vl,
    "internvl3-8b": internvl3,
    "llava-onevision-7b": llava_onevision,
    "smolvlm2-2b": smolvlm2,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_of_a_preset_are_those_of_the_published_configuration(name: str):
    preset = PUBLISHED[name]
    config, image_processor = MODELS[name]()
    with torch.device("meta"):
        model = tf.AutoModelForImageTextToText.from_config(config)
    weights = sum(weight.numel() for weight in model.parameters())
    assert preset.model_bytes == pytest.approx(2 * weights, rel=0.01)
    linears = language_linears(model).values()
    assert preset.linear_sizes == sum(linear.in_features + linear.out_features for linear in linears)
    options, image = options_of(preset.generate.image_options), Image.new("RGB", PHOTOGRAPH)
    if grids := grids_within(image_processor, options):
        image = made_smaller(image, grids, image_processor.resample)
    bounded = type(image_processor)(**image_processor.to_dict() | settings_of(image_processor, options))
    made = bounded(images=[image], return_tensors="np")
    travel = made["pixel_values"].size + (made["pixel_attention_mask"].nbytes if "pixel_attention_mask" in made else 0)
    assert preset.pixel_bytes == pytest.approx(travel, rel=0.05)
