"""Checkpoints without weights of families that are refused before any weight would be read."""

from collections.abc import Callable

import transformers as tf

from tests.tiny_models import SIZE, Made, chatml, ids, indices, template, text_sizes, tokenizer


def perception_lm() -> Made:
    """Its vision tower needs timm."""
    tokens = tokenizer(bos="<s>", image_token="<|image|>", video_token="<|video|>")
    config = tf.PerceptionLMConfig(
        text_config=tf.LlamaConfig(**text_sizes(tokens)), projector_pooling_ratio=2, **ids(tokens, image="<|image|>")
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
    config = tf.FastVlmConfig(text_config=tf.Qwen2Config(**text_sizes(tokens)), **indices(tokens, image="<image>"))
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
    return tf.Florence2Config(**ids(tokens, image="<image>")), tf.Florence2Processor(
        image_processor=tf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE), tokenizer=tokens
    )


def instructblipvideo() -> Made:
    """It reads videos alone."""
    tokens = tokenizer(bos="<s>", image_token="<image>", video_token="<video>")
    return tf.InstructBlipVideoConfig(), tf.InstructBlipVideoProcessor(
        video_processor=tf.InstructBlipVideoVideoProcessor(size=SIZE),
        tokenizer=tokens,
        qformer_tokenizer=tokenizer(),
        num_query_tokens=4,
    )


def pp_chart2table() -> Made:
    """Its processor asks its own question, and names no token of an image."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    config = tf.PPChart2TableConfig(**indices(tokens, image="<imgpad>"))
    return config, tf.PPChart2TableProcessor(
        image_processor=tf.PPChart2TableImageProcessorPil(), tokenizer=tokens, chat_template=chatml("<imgpad>")
    )


def without_template(config: str, processor: str, image_processor: str, **named: str) -> Callable[[], Made]:
    """A family whose published files have no chat template. `named`: special tokens that its processor looks up."""

    def make() -> Made:
        tokens = tokenizer(bos="<s>", image_token="<image>", **named)
        size = {"size": SIZE} if "Blip" in image_processor else {}
        parts = {"image_processor": getattr(tf, image_processor)(**size), "tokenizer": tokens}
        return getattr(tf, config)(), getattr(tf, processor)(**parts)

    return make


BLIP, CLIP = "BlipImageProcessorPil", "CLIPImageProcessorPil"
UNTRAINED: dict[str, Callable[[], Made]] = {
    make.__name__: make for make in (perception_lm, fast_vlm, gemma3n, florence2, instructblipvideo, pp_chart2table)
} | {
    "blip": without_template("BlipConfig", "BlipProcessor", BLIP),
    "blip-2": without_template("Blip2Config", "Blip2Processor", BLIP),
    "git": without_template("GitConfig", "GitProcessor", CLIP),
    "idefics": without_template("IdeficsConfig", "IdeficsProcessor", "IdeficsImageProcessorPil"),
    "kosmos-2": without_template("Kosmos2Config", "Kosmos2Processor", CLIP),
    "kosmos-2.5": without_template(
        "Kosmos2_5Config", "Kosmos2_5Processor", "Kosmos2_5ImageProcessorPil", boi_token="<boi>", eoi_token="<eoi>"
    ),
    "pix2struct": without_template("Pix2StructConfig", "Pix2StructProcessor", "Pix2StructImageProcessorPil"),
    "pp_formulanet": without_template("PPFormulaNetConfig", "PPFormulaNetProcessor", "PPFormulaNetImageProcessor"),
}
