"""Checkpoints of the families that came last, like those of tests/more_models.py."""

from collections.abc import Callable

import transformers as tf

from tests.more_models import ANY_SIZE
from tests.other_models import EXPERTS, GEMMA4, MINICPM_MARKS, gemma4_processor, gemma4_tokens, minicpm_tokens
from tests.tiny_models import (
    BLOCKS,
    LINEAR,
    QWEN2_5_VISION,
    QWEN3_VISION,
    SHALLOW,
    TOWER,
    VISION,
    Made,
    any_size,
    chatml,
    gemma3,
    ids,
    qwen,
    rope,
    template,
    text_sizes,
    tokenizer,
)


def qwen4_exp() -> Made:
    """Linear attention, and attention to a few blocks of tokens."""
    indexer = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 32}
    return qwen(
        tf.Qwen4ExpConfig,
        tf.Qwen3VLProcessor,
        tf.Qwen3VLVideoProcessor,
        16,
        SHALLOW,
        **LINEAR,
        **indexer,
        indexer_budget=8,
        indexer_compress_ratio=4,
        hc_count=2,
        hc_lowrank=16,
        num_experts=4,
        shared_expert_intermediate_size=48,
        **EXPERTS,
    )


def glm5_next() -> Made:
    """Linear attention, and attention to a few tokens."""
    marks = "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"
    tokens = tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    names = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
    text = text_sizes(
        tokens, n_routed_experts=4, n_group=1, topk_group=1, mlp_layer_types=["dense", "sparse"],
        layer_types=["linear_attention", "full_attention"], indexer_types=["full", "full"], index_topk=128,
        index_kpool=4, index_head_dim=32, index_n_heads=2, kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=32,
        v_head_dim=32, num_key_value_heads=2, linear_head_dim=32, linear_num_heads=2, hc_mult=2, **EXPERTS,
    )  # fmt: skip
    del text["head_dim"]
    vision = {"hidden_size": 64, "depth": 2, "num_heads": 2, "intermediate_size": 128, "out_hidden_size": 64}
    config = tf.Glm5NextConfig(
        text_config=text,
        vision_config=vision | {"image_size": 56, "projection_intermediate_size": 128},
        **ids(tokens, video="<|video|>", image="<|image|>"),
        **{name: tokens.convert_tokens_to_ids(mark) for name, mark in zip(names, marks, strict=True)},
    )
    return config, tf.Glm5NextProcessor(
        image_processor=tf.Glm5NextImageProcessorPil(size=ANY_SIZE),
        tokenizer=tokens,
        video_processor=tf.Glm5NextVideoProcessor(size=ANY_SIZE),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )


def cosmos3_omni() -> Made:
    return qwen(tf.Cosmos3OmniConfig, tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor, 16, QWEN3_VISION)


def cosmos3_edge() -> Made:
    tokens = tokenizer(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
    )
    config = tf.Cosmos3EdgeConfig(
        text_config=text_sizes(tokens, rope_parameters=rope(6, 5, 5)),
        vision_config=TOWER | {"num_patches": 64},
        projector_hidden_size=64,
        **ids(tokens, video="<|video_pad|>"),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|vision_end|>"),
        **ids(tokens, image="<|image_pad|>"),
    )
    return config, tf.Cosmos3EdgeProcessor(
        image_processor=tf.Cosmos3EdgeImageProcessorPil(size=any_size(32)),
        tokenizer=tokens,
        video_processor=tf.Cosmos3EdgeVideoProcessor(),
        chat_template=chatml("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def minicpmv4_7() -> Made:
    """Positions of an image's tiles on one canvas."""
    tokens = minicpm_tokens()
    positions = rope(4, 6, 6, mrope_interleaved=True)
    config = tf.MiniCPMV4_7Config(
        vision_config=VISION,
        text_config=text_sizes(tokens, model_type="qwen3_5_text", rope_parameters=positions, **LINEAR),
        image_size=28,
        insert_layer_id=0,
        newline_id=tokens.convert_tokens_to_ids("Ċ"),
        **ids(tokens, video="<|video_pad|>"),
        **{f"{mark}_id": tokens.convert_tokens_to_ids(f"<{mark}>") for mark in MINICPM_MARKS[:4]},
        **ids(tokens, image="<|image_pad|>"),
    )
    return config, tf.MiniCPMV4_7Processor(
        image_processor=tf.MiniCPMV4_6ImageProcessorPil(patch_size=7),
        video_processor=tf.MiniCPMV4_6VideoProcessor(),
        tokenizer=tokens,
        chat_template=chatml("<|image_pad|>"),
    )


def muse_glimmer() -> Made:
    """Layers without positions; the image processor has no PIL backend."""
    marks = "<|image_start|>", "<|image_end|>", "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>"
    tokens = tokenizer("<|patch|>", "<|video|>", *marks, bos="<s>")
    config = tf.MuseGlimmerConfig(
        text_config=text_sizes(tokens, layer_types=["sliding_attention", "full_attention"], sliding_window=4096),
        vision_config=TOWER | {"pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64},
        out_hidden_size=256,
        projector_hidden_size=64,
        **ids(tokens, video="<|video|>", image="<|patch|>"),
    )
    return config, tf.MuseGlimmerProcessor(
        image_processor=tf.MuseGlimmerImageProcessor(size=ANY_SIZE),
        video_processor=tf.MuseGlimmerVideoProcessor(size=ANY_SIZE),
        tokenizer=tokens,
        chat_template=template("<|patch|>", start="{{ bos_token }}"),
    )


def omni(config: type, processor: type, vision: dict, feature_extractor, audio: dict, patch_size: int, **text) -> Made:
    """The part of a model of several senses that answers in words."""
    marks = {"vision_bos": "<|vision_bos|>", "image": "<|IMAGE|>", "vision_eos": "<|vision_eos|>"}
    more = {"audio": "<|AUDIO|>", "video": "<|VIDEO|>", "audio_bos": "<|audio_bos|>", "audio_eos": "<|audio_eos|>"}
    named = {f"{name}_token": word for name, word in (marks | more).items()}
    tokens = tokenizer("<|im_start|>", "<|im_end|>", **named)
    axes = rope(6, 5, 5, mrope_interleaved=True) if patch_size == 16 else rope(4, 6, 6)
    ids = {name: tokens.convert_tokens_to_ids(word) for name, word in (marks | more).items()}
    suffix = "id" if patch_size == 16 else "index"
    return config(
        text_config=text_sizes(tokens, rope_parameters=axes, **text),
        vision_config=BLOCKS | vision,
        audio_config=audio,
        audio_start_token_id=ids["audio_bos"],
        vision_start_token_id=ids["vision_bos"],
        vision_end_token_id=ids["vision_eos"],
        **{f"{name}_token_{suffix}": ids[name] for name in ("image", "video", "audio")},
    ), processor(
        image_processor=tf.Qwen2VLImageProcessorPil(patch_size=patch_size, size=any_size(2 * patch_size)),
        video_processor=tf.Qwen2VLVideoProcessor(patch_size=patch_size),
        feature_extractor=feature_extractor,
        tokenizer=tokens,
        chat_template=chatml("".join(marks.values())),
    )


AUDIO = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 64, "output_dim": 64}


def qwen2_5_omni_thinker() -> Made:
    heard = tf.WhisperFeatureExtractor(feature_size=128)
    return omni(tf.Qwen2_5OmniThinkerConfig, tf.Qwen2_5OmniProcessor, QWEN2_5_VISION, heard, AUDIO, 14)


def qwen3_omni_moe_thinker() -> Made:
    heard = tf.WhisperFeatureExtractor(feature_size=128)
    return omni(
        tf.Qwen3OmniMoeThinkerConfig,
        tf.Qwen3OmniMoeProcessor,
        QWEN3_VISION,
        heard,
        AUDIO | {"downsample_hidden_size": 16},
        16,
        num_experts=4,
        decoder_sparse_step=1,
        norm_topk_prob=True,
        **EXPERTS,
    )


def deepseek_ocr2() -> Made:
    """Crops of another size than the overview, of large images alone."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = sizes | {"output_channels": 16, "window_size": 4, "global_attn_indexes": [1]}
    text = text_sizes(tokens, n_routed_experts=4, n_shared_experts=1, mlp_layer_types=["dense", "sparse"], **EXPERTS)
    del text["head_dim"]
    config = tf.DeepseekOcr2Config(
        text_config=text,
        vision_config={
            "sam_config": tower | {"image_size": 1024, "downsample_channels": [32, 64]},
            "encoder_config": sizes | {"intermediate_size": 128, "num_key_value_heads": 1},
        },
        **ids(tokens, image="<image>"),
    )
    return config, tf.DeepseekOcr2Processor(
        image_processor=tf.DeepseekOcr2ImageProcessorPil(), tokenizer=tokens, chat_template=template("<image>")
    )


def diffusion_gemma() -> Made:
    """Its answers are no sequence of tokens, each of which follows from those before it."""
    tokens = gemma4_tokens()
    config = tf.DiffusionGemmaConfig(
        text_config=text_sizes(
            tokens, layer_types=GEMMA4, num_hidden_layers=3, sliding_window=4096, num_key_value_heads=2,
            per_layer_config={}, num_experts=4, top_k_experts=2, moe_intermediate_size=48,
        ),
        vision_config=TOWER | {"num_key_value_heads": 2, "head_dim": 32, "patch_size": 7},
        canvas_length=8,
        **ids(tokens, image="<image>", boi="<boi>", eoi="<eoi>"),
    )  # fmt: skip
    return config, gemma4_processor(tokens)


def nemotron_h_omni() -> Made:
    """State-space layers; the image processor has no PIL backend."""
    named = {"image_token": "<image>", "video_token": "<video>", "audio_token": "<so_embedding>"}
    tokens = tokenizer("<so_start>", "<so_end>", "<img>", "</img>", "<SPECIAL_12>", **named)
    text = text_sizes(
        tokens, layers_block_type=["linear_attention", "full_attention", "moe"], ssm_state_size=16,
        mamba_num_heads=4, mamba_head_dim=32, n_groups=2, chunk_size=16, n_routed_experts=4,
        moe_shared_expert_intermediate_size=48, **EXPERTS,
    )  # fmt: skip
    del text["num_hidden_layers"]
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_img_size": 256}
    config = tf.NemotronH_Omni_Reasoning_V3_Config(
        text_config=text,
        vision_config=vision | {"video_temporal_patch_size": 2, "image_size": 64},
        vision_hidden_size=64,
        projector_hidden_size=64,
        **ids(tokens, video="<video>"),
        audio_token_id=tokens.convert_tokens_to_ids("<so_embedding>"),
        **ids(tokens, image="<image>"),
    )
    return config, tf.NemotronH_Omni_Reasoning_V3Processor(
        image_processor=tf.NemotronH_Omni_Reasoning_V3ImageProcessor(min_num_patches=4, max_num_patches=64),
        video_processor=tf.NemotronH_Omni_Reasoning_V3VideoProcessor(),
        feature_extractor=tf.WhisperFeatureExtractor(),  # its own one needs librosa
        tokenizer=tokens,
        chat_template=template("<image>"),
    )


def inkling_mm_model() -> Made:
    """Patches that hold a still image twice, along an axis of their own."""
    words = "<|unused_200054|>", "<|unused_200053|>", "<|content_image|>", "<|content_audio_input|>"
    tokens = tokenizer(*words, bos="<s>")
    text = text_sizes(
        tokens, swa_num_attention_heads=2, swa_num_key_value_heads=1, swa_head_dim=32, sliding_window_size=512,
        mlp_layer_types=["dense", "sparse"], layer_types=["hybrid_sliding", "hybrid"], n_routed_experts=4,
        n_shared_experts=1, logits_mup_width_multiplier=1.0, **EXPERTS,
    )  # fmt: skip
    config = tf.InklingConfig(
        text_config=text,
        vision_config={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        image_bos_token_id=tokens.convert_tokens_to_ids("<|content_image|>"),
        audio_token_id=tokens.convert_tokens_to_ids("<|unused_200053|>"),
        audio_bos_token_id=tokens.convert_tokens_to_ids("<|content_audio_input|>"),
        **ids(tokens, image="<|unused_200054|>"),
    )
    return config, tf.InklingProcessor(
        feature_extractor=tf.InklingFeatureExtractor(),
        image_processor=tf.InklingImageProcessor(),
        tokenizer=tokens,
        chat_template=template("<|content_image|><|unused_200054|>"),
    )


def shieldgemma2() -> Made:
    """Its processor asks its own questions."""
    config, processor = gemma3()
    parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    return tf.ShieldGemma2Config(
        vision_config=config.vision_config, text_config=config.text_config, image_token_index=config.image_token_index
    ), tf.ShieldGemma2Processor(**parts, image_seq_length=4, chat_template=processor.chat_template)


NEWEST: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        *(qwen4_exp, glm5_next, cosmos3_omni, cosmos3_edge, minicpmv4_7, muse_glimmer, qwen2_5_omni_thinker),
        *(qwen3_omni_moe_thinker, deepseek_ocr2, diffusion_gemma, nemotron_h_omni, inkling_mm_model, shieldgemma2),
    )
}
