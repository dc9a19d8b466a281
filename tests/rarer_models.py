"""Still more checkpoints of families that nothing here was written for, like those of tests/more_models.py."""

from collections.abc import Callable

import transformers as tf

from tests.more_models import ANY_SIZE, SMALL_GLM, glm
from tests.other_models import EXPERTS, GEMMA4, gemma4_ids, gemma4_tokens
from tests.tiny_models import VISION, Made, ids, template, text_sizes, tokenizer


def kimi_k25() -> Made:
    """DeepSeek's latent attention."""
    tokens = tokenizer("<|im_user|>", image_token="<|media_pad|>", video_token="<|kimi_k25_video_placeholder|>")
    text = text_sizes(
        tokens, n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=32,
        qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32, num_key_value_heads=2, **EXPERTS,
    )  # fmt: skip
    del text["head_dim"]
    config = tf.Kimi_K25Config(
        text_config=tf.DeepseekV3Config(**text),
        vision_config={"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2,
                       "pos_emb_height": 8, "pos_emb_width": 8},
        projection_hidden_size=64,
        **ids(tokens, video="<|kimi_k25_video_placeholder|>", image="<|media_pad|>"),
    )  # fmt: skip
    return config, tf.Kimi_K25Processor(
        image_processor=tf.Kimi_K25ImageProcessor(),
        video_processor=tf.Kimi_K25VideoProcessor(),
        tokenizer=tokens,
        chat_template=template("<|media_pad|>", before="<|im_user|>"),
    )


def hunyuan_vl() -> Made:
    """Positions on four axes."""
    named = {"image_token": "<image>", "image_start_token": "<im_start>", "image_end_token": "<im_end>"}
    tokens = tokenizer("<newline>", bos="<s>", **named)
    config = tf.HunYuanVLConfig(
        text_config=text_sizes(
            tokens, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "xdrope_section": [4, 4, 4, 4]}
        ),
        vision_config={"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2,
                       "num_key_value_heads": 2, "out_hidden_size": 64, "text_hidden_size": 64, "min_image_size": 32,
                       "max_image_size": 256},
        im_start_id=tokens.convert_tokens_to_ids("<im_start>"),
        im_end_id=tokens.convert_tokens_to_ids("<im_end>"),
        im_newline_id=tokens.convert_tokens_to_ids("<newline>"),
        **ids(tokens, image="<image>"),
    )  # fmt: skip
    return config, tf.HunYuanVLProcessor(
        image_processor=tf.HunYuanVLImageProcessorPil(size={"shortest_edge": 32**2, "longest_edge": 256**2}),
        tokenizer=tokens,
        chat_template=template("<im_start><image><im_end>"),
    )


def step3p7() -> Made:
    """Crops of another size than the overview."""
    marks = "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"
    tokens = tokenizer("<im_patch>", *marks, bos="<s>")
    config = tf.Step3p7Config(
        text_config=text_sizes(
            tokens, layer_types=["full_attention"] * 2, mlp_layer_types=["dense", "sparse"], n_routed_experts=4,
            share_expert_dim=48, num_sliding_attention_heads=2, query_pre_attn_scalar=32, per_layer_config={},
            **EXPERTS,
        ),
        vision_config=VISION | {"image_size": 56, "patch_size": 7, "max_position_embeddings": 64, "mlp_ratio": 2.0},
        **ids(tokens, image="<im_patch>"),
    )  # fmt: skip
    return config, tf.Step3p7Processor(
        image_processor=tf.Step3p7ImageProcessor(
            size={"height": 56, "width": 56}, patch_size=28, vision_patch_size=7, downsampler_stride=4
        ),
        tokenizer=tokens,
        chat_template=template("<im_patch>"),
    )


def minimax_m3_vl() -> Made:
    """Attention to a few blocks of tokens."""
    marks = "]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>["
    tokens = tokenizer(*marks, bos="<s>")
    config = tf.MiniMaxM3VLConfig(
        text_config=text_sizes(
            tokens, layer_types=["full_attention"] * 2, mlp_layer_types=["dense", "sparse"], num_local_experts=4,
            num_experts_per_tok=2, rotary_dim=32, dense_intermediate_size=128, shared_intermediate_size=48,
        ),
        vision_config=VISION | {"image_size": 112, "patch_size": 14},
        merged_hidden_size=256,
        projector_hidden_size=64,
        image_token_index=tokens.convert_tokens_to_ids(marks[0]),
        video_token_index=tokens.convert_tokens_to_ids(marks[1]),
    )  # fmt: skip
    return config, tf.MiniMaxM3VLProcessor(
        image_processor=tf.MiniMaxM3VLImageProcessor(size=ANY_SIZE),
        video_processor=tf.MiniMaxM3VLVideoProcessor(size=ANY_SIZE),
        tokenizer=tokens,
        chat_template=template(marks[0]),
    )


def glmga() -> Made:
    return glm(tf.Glm46VConfig, vision=SMALL_GLM, pixels=tf.GlmgaImageProcessorPil(size=ANY_SIZE))


def gemma4_unified() -> Made:
    """No vision tower: patches are projected."""
    tokens = gemma4_tokens()
    config = tf.Gemma4UnifiedConfig(
        text_config=text_sizes(
            tokens, layer_types=GEMMA4, num_hidden_layers=3, sliding_window=4096, num_key_value_heads=2,
            per_layer_config={}, use_bidirectional_attention="vision",
        ),
        vision_config={"patch_size": 7, "mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64},
        audio_config=None,
        **gemma4_ids(tokens),
    )  # fmt: skip
    return config, tf.Gemma4UnifiedProcessor(
        image_processor=tf.Gemma4UnifiedImageProcessor(patch_size=7, max_soft_tokens=70),
        feature_extractor=tf.Gemma4UnifiedAudioFeatureExtractor(),
        video_processor=tf.Gemma4UnifiedVideoProcessor(),
        tokenizer=tokens,
        image_seq_length=70,
        chat_template=template("<image>", start="{{ bos_token }}"),
    )


RARER: dict[str, Callable[[], Made]] = {
    make.__name__: make for make in (kimi_k25, hunyuan_vl, step3p7, minimax_m3_vl, glmga, gemma4_unified)
}
