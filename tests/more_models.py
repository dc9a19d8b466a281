"""Checkpoints of families that nothing here was written for, like those of tests/tiny_models.py."""

from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.tiny_models import (
    BLOCKS,
    LINEAR,
    PINPOINTS,
    SHALLOW,
    SIGLIP,
    SIZE,
    TOWER,
    VISION,
    Made,
    any_size,
    chatml,
    clip,
    clip_images,
    ids,
    images_in_tiles,
    indices,
    pixtral_images,
    pixtral_tower,
    qwen,
    rope,
    template,
    text_sizes,
    tokenizer,
)


def vipllava() -> Made:
    """LLaVA with features of several layers of its tower."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    config = tf.VipLlavaConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **indices(tokens, image="<image>"),
        vision_feature_layers=[-2, -3],
        image_seq_length=16,
    )
    return config, tf.LlavaProcessor(
        image_processor=clip_images(),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>\n"),
    )


def aya_vision() -> Made:
    """Named tiles."""
    names = "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"
    tokens = tokenizer("<image>", *names, *(f"TILE_{number}" for number in range(1, 5)), bos="<bos>")
    config = tf.AyaVisionConfig(
        vision_config=SIGLIP,
        text_config=tf.Cohere2Config(**text_sizes(tokens, sliding_window=4096)),
        **indices(tokens, image="<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    return config, tf.AyaVisionProcessor(
        image_processor=tf.GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=4),
        tokenizer=tokens,
        patch_size=14,
        img_size=28,
        chat_template=template("<image>"),
    )


def cohere2_vision() -> Made:
    """Its image processor has no PIL backend."""
    named = {"image_token": "<img>", "boi_token": "<boi>", "eoi_token": "<eoi>", "img_line_break_token": "<br>"}
    tokens = tokenizer(bos="<bos>", **named)
    config = tf.Cohere2VisionConfig(
        vision_config=SIGLIP | {"image_size": 32, "patch_size": 4},
        text_config=tf.Cohere2Config(**text_sizes(tokens, sliding_window=4096)),
        **ids(tokens, image="<img>"),
    )
    return config, tf.Cohere2VisionProcessor(
        image_processor=tf.Cohere2VisionImageProcessor(size={"height": 32, "width": 32}, patch_size=4),
        tokenizer=tokens,
        chat_template=template("<img>"),
    )


ANY_SIZE = any_size(28)
GLM = BLOCKS | {"intermediate_size": 128, "out_hidden_size": 64}
SMALL_GLM = GLM | {"image_size": 56}


def glm(config: Any, family: str = "Glm46V", vision: Any = GLM, pixels: Any = None, **text: Any) -> Made:
    """Images of any size, with positions on three axes. `family` has the processor."""
    marks = "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"
    tokens = tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    names = ("image_start", "image_end", "video_start", "video_end")
    processor, images, videos = (
        getattr(tf, f"{family}{part}") for part in ("Processor", "ImageProcessorPil", "VideoProcessor")
    )
    return config(
        text_config=text_sizes(tokens, rope_parameters=rope(4, 6, 6, partial_rotary_factor=1.0), **text),
        vision_config=vision,
        **ids(tokens, video="<|video|>", image="<|image|>", **dict(zip(names, marks, strict=True))),
    ), processor(
        image_processor=pixels or images(size=ANY_SIZE),
        tokenizer=tokens,
        video_processor=videos(size=ANY_SIZE),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )


def glm4v() -> Made:
    return glm(tf.Glm4vConfig, "Glm4v")


def glm46v() -> Made:
    return glm(tf.Glm46VConfig)


def qwen3_5() -> Made:
    """Three of four layers have no attention."""
    return qwen(tf.Qwen3_5Config, tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor, 16, SHALLOW, **LINEAR)


def ovis2() -> Made:
    """Features that are words of a visual vocabulary."""
    marks = "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"
    tokens = tokenizer("<|im_start|>", "<|im_end|>", "<image>", *marks)
    config = tf.Ovis2Config(
        vision_config=VISION | {"vocab_size": 40, "hidden_stride": 2},
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        **ids(tokens, image="<IMG_ATOM>"),
        visual_indicator_token_ids=[tokens.convert_tokens_to_ids(mark) for mark in marks[1:]],
        vocab_size=len(tokens),
        hidden_size=64,
    )
    return config, tf.Ovis2Processor(
        image_processor=tf.Ovis2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=4),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=chatml("<image>\n"),
    )


def deepseek_vl() -> Made:
    """An image that is filled up to a square."""
    tokens = tokenizer(bos="<bos>", image_token="<image_placeholder>")
    config = tf.DeepseekVLConfig(
        vision_config=SIGLIP,
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **ids(tokens, image="<image_placeholder>"),
    )
    return config, tf.DeepseekVLProcessor(
        image_processor=tf.DeepseekVLImageProcessorPil(size=SIZE, min_size=7),
        tokenizer=tokens,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )


def lighton_ocr() -> Made:
    """Pixtral's images before a Qwen3."""
    named = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    tokens = tokenizer("<|im_start|>", "<|im_end|>", **named)
    config = tf.LightOnOcrConfig(
        vision_config=pixtral_tower(),
        text_config=tf.Qwen3Config(**text_sizes(tokens)),
        **ids(tokens, image="[IMG]"),
    )
    return config, tf.LightOnOcrProcessor(
        image_processor=pixtral_images(),
        tokenizer=tokens,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=chatml("[IMG]"),
    )


def granite4_vision() -> Made:
    """LLaVA-NeXT's tiles through a Q-former."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    config = tf.Granite4VisionConfig(
        vision_config=SIGLIP,
        text_config=text_sizes(tokens),
        **indices(tokens, image="<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
        downsample_rate="1/2",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        deepstack_layer_map=[[-1, 0]],
        spatial_target_layers=[],
    )
    return config, tf.Granite4VisionProcessor(
        image_processor=images_in_tiles(),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        chat_template=template("<image>\n"),
    )


def video_llama_3() -> Made:
    """Images of any size, whose positions count on like words."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>", video_token="<video>")
    config = tf.VideoLlama3Config(
        vision_config=TOWER | {"patch_size": 14},
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        **ids(tokens, video="<video>", image="<image>"),
    )
    return config, tf.VideoLlama3Processor(
        image_processor=tf.VideoLlama3ImageProcessorPil(patch_size=14, size=ANY_SIZE),
        tokenizer=tokens,
        video_processor=tf.VideoLlama3VideoProcessor(patch_size=14, size=ANY_SIZE),
        chat_template=chatml("<image>"),
    )


def idefics2() -> Made:
    """Every image is as many tokens as any other."""
    tokens = tokenizer(
        bos="<s>",
        image_token="<image>",
        image_boundary_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = tf.Idefics2Config(
        vision_config=VISION,
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 32,
            "num_key_value_heads": 1,
        },
        text_config=tf.MistralConfig(**text_sizes(tokens)),
        **ids(tokens, image="<image>"),
    )
    return config, tf.Idefics2Processor(
        image_processor=tf.Idefics2ImageProcessorPil(
            size={"shortest_edge": 14, "longest_edge": 28}, do_image_splitting=False
        ),
        tokenizer=tokens,
        image_seq_len=4,
        chat_template=template("<image>", before="User:", after="<end_of_utterance>\nAssistant:"),
    )


def instructblip() -> Made:
    """Its features depend on the question."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    config = tf.InstructBlipConfig(
        vision_config=TOWER | {"image_size": 28, "patch_size": 7},
        qformer_config=TOWER | {"vocab_size": len(tokens), "encoder_hidden_size": 64},
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        num_query_tokens=4,
        **indices(tokens, image="<image>"),
    )
    return config, tf.InstructBlipProcessor(
        image_processor=tf.BlipImageProcessorPil(size=SIZE),
        tokenizer=tokens,
        qformer_tokenizer=tokenizer(),
        num_query_tokens=4,
        chat_template=template("<image>"),
    )


def emu3() -> Made:
    """Images become words of a vocabulary, by a part of the model that is no tower; no PIL backend."""
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>", "image_wrapper_token": "<wrap>"}
    tokens = tokenizer(bos="<s>", eof_token="<eof>", **named)
    config = tf.Emu3Config(
        vq_config={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "attn_resolutions": []},
        text_config=text_sizes(tokens),
        vocabulary_map={"<image>": tokens.convert_tokens_to_ids("<image>")},
    )
    return config, tf.Emu3Processor(
        image_processor=tf.Emu3ImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokens,
        chat_template=template("<image>"),
    )


MORE: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        *(vipllava, aya_vision, cohere2_vision, glm4v, glm46v, qwen3_5, ovis2, deepseek_vl),
        *(lighton_ocr, granite4_vision, video_llama_3, idefics2, instructblip, emu3),
    )
}
