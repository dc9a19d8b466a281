"""Checkpoints without weights of families that are refused before any weight would be read."""

from collections.abc import Callable

import transformers as tf

from tests.tiny_models import (
    SIZE,
    Made,
    chatml,
    image_token,
    template,
    text_sizes,
    tokenizer,
)


def perception_lm() -> Made:
    """Its vision tower needs timm."""
    tokens = tokenizer(bos="<s>", image_token="<|image|>", video_token="<|video|>")
    config = tf.PerceptionLMConfig(
        text_config=tf.LlamaConfig(**text_sizes(tokens)), projector_pooling_ratio=2, **image_token(tokens, "<|image|>")
    )
    return config, tf.PerceptionLMProcessor(
        image_processor=tf.PerceptionLMImageProcessor(tile_size=28, max_num_tiles=4),
        video_processor=tf.PerceptionLMVideoProcessor(),
        tokenizer=tokens,
        patch_size=7,
        chat_template=template("<|image|>"),
    )


def fast_vlm() -> Made:
    """LLaVA's processor, and a vision tower that needs timm."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    config = tf.FastVlmConfig(
        text_config=tf.Qwen2Config(**text_sizes(tokens)), image_token_index=tokens.convert_tokens_to_ids("<image>")
    )
    return config, tf.LlavaProcessor(
        image_processor=tf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>"),
    )


def gemma3n() -> Made:
    """Its vision tower needs timm."""
    marks = ("image", "boi", "eoi", "audio", "boa", "eoa")
    tokens = tokenizer(bos="<bos>", **{f"{mark}_token": f"<{mark}>" for mark in marks})
    config = tf.Gemma3nConfig(
        text_config=text_sizes(tokens, layer_types=["sliding_attention", "full_attention"]),
        **{f"{mark}_token_id": tokens.convert_tokens_to_ids(f"<{mark}>") for mark in marks},
    )
    return config, tf.Gemma3nProcessor(
        image_processor=tf.SiglipImageProcessorPil(size=SIZE),
        feature_extractor=tf.Gemma3nAudioFeatureExtractor(),
        tokenizer=tokens,
        image_seq_length=16,
        chat_template=template("<image>"),
    )


def florence2() -> Made:
    """An encoder reads the prompt."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    return tf.Florence2Config(**image_token(tokens, "<image>")), tf.Florence2Processor(
        image_processor=tf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE), tokenizer=tokens
    )


def without_template(config: str, processor: str) -> Callable[[], Made]:
    """A family whose published files have no chat template."""

    def make() -> Made:
        tokens = tokenizer(bos="<s>", image_token="<image>")
        image_processor = tf.BlipImageProcessorPil(size=SIZE) if "Blip" in processor else tf.CLIPImageProcessorPil()
        return getattr(tf, config)(), getattr(tf, processor)(image_processor=image_processor, tokenizer=tokens)

    return make


UNTRAINED: dict[str, Callable[[], Made]] = {
    make.__name__: make for make in (perception_lm, fast_vlm, gemma3n, florence2)
} | {
    "blip": without_template("BlipConfig", "BlipProcessor"),
    "blip-2": without_template("Blip2Config", "Blip2Processor"),
    "git": without_template("GitConfig", "GitProcessor"),
}
