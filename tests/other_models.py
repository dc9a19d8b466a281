"""More checkpoints of families that nothing here was written for, like those of tests/more_models.py."""

from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.more_models import GLM
from tests.tiny_models import (
    PINPOINTS,
    QWEN3_VISION,
    SIGLIP,
    SIZE,
    VISION,
    Made,
    chatml,
    clip,
    image_token,
    qwen,
    template,
    text_sizes,
    tokenizer,
)

ANY_SIZE = {"shortest_edge": 4 * 28**2, "longest_edge": 64 * 28**2}
GEMMA4 = ["sliding_attention", "full_attention", "full_attention"]
"""What an image's tokens see in the second layer shows in what the third one reads of them."""
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 48, "num_experts_per_tok": 2}


def lfm2_vl() -> Made:
    """Convolutions between the layers with attention."""
    marks = "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokens = tokenizer("<|im_start|>", "<|im_end|>", *marks, *tiles, image_token="<image>")
    text = text_sizes(tokens, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    config = tf.Lfm2VlConfig(
        vision_config=vision | {"num_patches": 16, "vision_use_head": False},
        text_config=tf.Lfm2Config(**text),
        projector_hidden_size=64,
        **image_token(tokens, "<image>"),
    )
    return config, tf.Lfm2VlProcessor(
        image_processor=tf.Lfm2VlImageProcessor(
            tile_size=28,
            encoder_patch_size=7,
            min_image_tokens=4,
            max_image_tokens=16,
            max_num_patches=64,
            max_tiles=4,
            min_tiles=2,
        ),
        tokenizer=tokens,
        chat_template=chatml("<image>"),
    )


def aria() -> Made:
    """A mixture of experts."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    config = tf.AriaConfig(
        vision_config=tf.Idefics3VisionConfig(**VISION | {"image_size": 980, "patch_size": 70}),
        text_config=tf.AriaTextConfig(**text_sizes(tokens, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)),
        projector_patch_to_query_dict={49: 4, 196: 4},
        **image_token(tokens, "<image>"),
    )
    return config, tf.AriaProcessor(
        image_processor=tf.AriaImageProcessorPil(max_image_size=980, min_image_size=336),
        tokenizer=tokens,
        size_conversion={490: 4, 980: 4},
        chat_template=chatml("<image>"),
    )


def janus() -> Made:
    """It makes images too."""
    tokens = tokenizer(bos="<s>", image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    config = tf.JanusConfig(
        vision_config=VISION | {"num_image_tokens": 16, "projection_dim": 64, "mlp_ratio": 2},
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
            "num_embeddings": 16,
            "num_patches": 4,
            "latent_channels": 32,
        },
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **image_token(tokens, "<image>"),
    )
    return config, tf.JanusProcessor(
        image_processor=tf.JanusImageProcessorPil(size=SIZE, min_size=7),
        tokenizer=tokens,
        num_image_tokens=16,
        chat_template=template("<image>"),
    )


def gemma4() -> Made:
    tokens = tokenizer(
        "<|video|>",
        bos="<bos>",
        image_token="<image>",
        boi_token="<boi>",
        eoi_token="<eoi>",
        audio_token="<audio>",
        boa_token="<boa>",
        eoa_token="<eoa>",
    )
    ids = {
        f"{name}_token_id": tokens.convert_tokens_to_ids(f"<{name}>")
        for name in ("image", "boi", "eoi", "audio", "boa")
    }
    config = tf.Gemma4Config(
        text_config=text_sizes(
            tokens,
            layer_types=GEMMA4,
            num_hidden_layers=3,
            hidden_size_per_layer_input=16,
            vocab_size_per_layer_input=len(tokens),
            sliding_window=4096,
            num_key_value_heads=2,
            per_layer_config={},
            use_bidirectional_attention="vision",
        ),
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "patch_size": 7,
        },
        audio_config=None,
        video_token_id=tokens.convert_tokens_to_ids("<|video|>"),
        **ids,
    )
    return config, gemma4_processor(tokens)


def gemma4_processor(tokens: Any) -> Any:
    """The processor of Gemma 4, and of the models that read images as it does."""
    return tf.Gemma4Processor(
        image_processor=tf.Gemma4ImageProcessorPil(patch_size=7, max_soft_tokens=70, pooling_kernel_size=3),
        feature_extractor=tf.Gemma4AudioFeatureExtractor(),
        video_processor=tf.Gemma4VideoProcessor(),
        tokenizer=tokens,
        image_seq_length=70,
        chat_template=template("<image>", start="{{ bos_token }}"),
    )


def llama4() -> Made:
    names = "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"
    tokens = tokenizer("<|image|>", *names, bos="<s>")
    config = tf.Llama4Config(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
            "vision_output_dim": 64,
            "pixel_shuffle_ratio": 0.5,
        },
        text_config=text_sizes(
            tokens, intermediate_size_mlp=128, num_local_experts=4, num_experts_per_tok=1, attention_chunk_size=8192
        ),
        boi_token_index=tokens.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokens.convert_tokens_to_ids("<|patch|>"),
    )
    return config, tf.Llama4Processor(
        image_processor=tf.Llama4ImageProcessor(size=SIZE, max_patches=4),
        tokenizer=tokens,
        patch_size=7,
        chat_template=template("<|image|>"),
    )


def got_ocr2() -> Made:
    """Its processor writes the whole prompt by itself."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>", image_token="<imgpad>")
    config = tf.GotOcr2Config(
        vision_config={
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "output_channels": 16,
            "image_size": 256,
            "patch_size": 16,
            "global_attn_indexes": [1],
            "window_size": 4,
        },
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        image_seq_length=16,
        image_token_index=tokens.convert_tokens_to_ids("<imgpad>"),
    )
    return config, tf.GotOcr2Processor(
        image_processor=tf.GotOcr2ImageProcessorPil(size={"height": 256, "width": 256}), tokenizer=tokens
    )


def deepseek_vl_hybrid() -> Made:
    """Two towers, which read an image at two resolutions."""
    tokens = tokenizer(bos="<bos>", image_token="<image_placeholder>")
    config = tf.DeepseekVLHybridConfig(
        vision_config=SIGLIP,
        high_res_vision_config={
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "output_channels": 16,
            "image_size": 64,
            "patch_size": 16,
            "global_attn_indexes": [1],
            "window_size": 4,
        },
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **image_token(tokens, "<image_placeholder>"),
    )
    return config, tf.DeepseekVLHybridProcessor(
        image_processor=tf.DeepseekVLHybridImageProcessorPil(
            size=SIZE, high_res_size={"height": 64, "width": 64}, min_size=7
        ),
        tokenizer=tokens,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )


def minicpmv4_6() -> Made:
    marks = ("image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end")
    named = {f"{mark}_token": f"<{mark}>" for mark in marks}
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>", **named)
    config = tf.MiniCPMV4_6Config(
        vision_config=VISION | {"model_type": "minicpmv4_6_vision"},
        text_config=text_sizes(
            tokens,
            model_type="qwen3_5_text",
            layer_types=["linear_attention", "full_attention"],
            linear_key_head_dim=32,
            linear_value_head_dim=32,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
        ),
        image_size=28,
        patch_size=7,
        insert_layer_id=0,
        **image_token(tokens, "<|image_pad|>"),
    )
    return config, tf.MiniCPMV4_6Processor(
        image_processor=tf.MiniCPMV4_6ImageProcessorPil(patch_size=7),
        video_processor=tf.MiniCPMV4_6VideoProcessor(),
        tokenizer=tokens,
        chat_template=chatml("<|image_pad|>"),
    )


def qwen3_5_moe() -> Made:
    vision = {name: value for name, value in QWEN3_VISION.items() if "deepstack" not in name}
    return qwen(
        tf.Qwen3_5MoeConfig,
        tf.Qwen3VLProcessor,
        tf.Qwen3VLVideoProcessor,
        16,
        vision,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        num_experts=4,
        shared_expert_intermediate_size=48,
        **EXPERTS,
    )


def paddleocr_vl() -> Made:
    tokens = tokenizer("<|IMAGE_START|>", "<|IMAGE_END|>", bos="<s>", image_token="<|IMAGE_PLACEHOLDER|>")
    config = tf.PaddleOCRVLConfig(
        vision_config=VISION | {"image_size": 56, "patch_size": 14},
        text_config=text_sizes(
            tokens, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
        ),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|IMAGE_START|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|IMAGE_END|>"),
        **image_token(tokens, "<|IMAGE_PLACEHOLDER|>"),
    )
    return config, tf.PaddleOCRVLProcessor(
        image_processor=tf.PaddleOCRVLImageProcessorPil(size=ANY_SIZE),
        tokenizer=tokens,
        chat_template=template("<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"),
    )


def qianfan_ocr() -> Made:
    tokens = tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        "<image>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
    )
    config = tf.QianfanOCRConfig(
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [7, 7]},
        text_config=tf.Qwen3Config(**text_sizes(tokens)),
        image_seq_length=4,
        **image_token(tokens, "<IMG_CONTEXT>"),
    )
    return config, tf.QianfanOCRProcessor(
        image_processor=tf.GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=4),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=chatml("<image>"),
    )


def exaone4_5() -> Made:
    tokens = tokenizer("[|user|]", "<vision>", "</vision>", image_token="<|image_pad|>", video_token="<|video_pad|>")
    config = tf.Exaone4_5_Config(
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "num_key_value_heads": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config=text_sizes(tokens, layer_types=["sliding_attention", "full_attention"], sliding_window=4096),
        video_token_id=tokens.convert_tokens_to_ids("<|video_pad|>"),
        **image_token(tokens, "<|image_pad|>"),
    )
    return config, tf.Exaone4_5_Processor(
        image_processor=tf.Qwen2VLImageProcessorPil(size=ANY_SIZE),
        video_processor=tf.Qwen2VLVideoProcessor(),
        tokenizer=tokens,
        chat_template=template("<vision><|image_pad|></vision>", before="[|user|]"),
    )


def hyperclovax_vision_v2() -> Made:
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<|IMAGE_PAD|>", video_token="<|VIDEO_PAD|>")
    config = tf.HyperCLOVAXVisionV2Config(
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config=text_sizes(tokens),
        video_token_id=tokens.convert_tokens_to_ids("<|VIDEO_PAD|>"),
        **image_token(tokens, "<|IMAGE_PAD|>"),
    )
    return config, tf.HyperCLOVAXVisionV2Processor(
        image_processor=tf.Qwen2VLImageProcessorPil(size=ANY_SIZE),
        video_processor=tf.Qwen2VLVideoProcessor(),
        tokenizer=tokens,
        chat_template=chatml("<|IMAGE_PAD|>"),
    )


def glm(config: Any, text: dict[str, Any], image_processor: Any = None) -> Made:
    marks = "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"
    tokens = tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    names = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6], "partial_rotary_factor": 1.0}
    return config(
        text_config=text_sizes(tokens, rope_parameters=rope, **text),
        vision_config=GLM | {"image_size": 56},
        video_token_id=tokens.convert_tokens_to_ids("<|video|>"),
        **image_token(tokens, "<|image|>"),
        **{name: tokens.convert_tokens_to_ids(mark) for name, mark in zip(names, marks, strict=True)},
    ), tf.Glm46VProcessor(
        image_processor=image_processor or tf.Glm46VImageProcessorPil(size=ANY_SIZE),
        tokenizer=tokens,
        video_processor=tf.Glm46VVideoProcessor(size=ANY_SIZE),
        chat_template=template("<|begin_of_image|><|image|><|end_of_image|>"),
    )


def glm4v_moe() -> Made:
    return glm(tf.Glm4vMoeConfig, EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1})


def glm_ocr() -> Made:
    return glm(tf.GlmOcrConfig, {})


def llava_next_video() -> Made:
    """LLaVA-NeXT that reads videos too."""
    tokens = tokenizer(bos="<s>", image_token="<image>", video_token="<video>")
    config = tf.LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    return config, tf.LlavaNextVideoProcessor(
        image_processor=tf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size=SIZE, image_grid_pinpoints=PINPOINTS
        ),
        video_processor=tf.LlavaNextVideoVideoProcessor(size={"shortest_edge": 28}, crop_size=SIZE),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>\n"),
    )


def video_llava() -> Made:
    """Another name for its images' pixels."""
    tokens = tokenizer(bos="<s>", image_token="<image>", video_token="<video>")
    config = tf.VideoLlavaConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_seq_length=16,
        video_seq_length=16,
    )
    return config, tf.VideoLlavaProcessor(
        image_processor=tf.VideoLlavaImageProcessor(size={"shortest_edge": 28}, crop_size=SIZE),
        video_processor=tf.VideoLlavaVideoProcessor(size={"shortest_edge": 28}, crop_size=SIZE),
        tokenizer=tokens,
        patch_size=7,
        chat_template=template("<image>\n"),
    )


def ernie4_5_vl_moe() -> Made:
    tokens = tokenizer(
        "<|IMAGE_START|>",
        "<|IMAGE_END|>",
        "<|VIDEO_START|>",
        "<|VIDEO_END|>",
        bos="<s>",
        image_token="<|IMAGE@placeholder|>",
        video_token="<|VIDEO@placeholder|>",
        image_start_token="<|IMAGE_START|>",
        image_end_token="<|IMAGE_END|>",
        video_start_token="<|VIDEO_START|>",
        video_end_token="<|VIDEO_END|>",
    )
    config = tf.Ernie4_5_VLMoeConfig(
        vision_config={"depth": 2, "num_heads": 2, "hidden_size": 64, "intermediate_size": 128},
        text_config=text_sizes(
            tokens,
            moe_intermediate_size=[48, 48],
            moe_k=2,
            moe_num_experts=4,
            moe_num_shared_experts=1,
            mlp_layer_types=["dense", "sparse"],
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 6, 4]},
        ),
        image_start_token_id=tokens.convert_tokens_to_ids("<|IMAGE_START|>"),
        image_end_token_id=tokens.convert_tokens_to_ids("<|IMAGE_END|>"),
        video_start_token_id=tokens.convert_tokens_to_ids("<|VIDEO_START|>"),
        video_end_token_id=tokens.convert_tokens_to_ids("<|VIDEO_END|>"),
        video_token_id=tokens.convert_tokens_to_ids("<|VIDEO@placeholder|>"),
        **image_token(tokens, "<|IMAGE@placeholder|>"),
    )
    return config, tf.Ernie4_5_VLMoeProcessor(
        image_processor=tf.Ernie4_5_VLMoeImageProcessorPil(size=ANY_SIZE),
        video_processor=tf.Ernie4_5_VLMoeVideoProcessor(size=ANY_SIZE, draw_on_frames=False),
        tokenizer=tokens,
        chat_template=template("<|IMAGE_START|><|IMAGE@placeholder|><|IMAGE_END|>"),
    )


def cohere_compass() -> Made:
    tokens = tokenizer("<|VISION_START|>", "<|VISION_END|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>", bos="<bos>")
    config = tf.CohereCompassConfig(
        vision_config={"depth": 2, "num_heads": 2, "hidden_size": 64, **QWEN3_VISION},
        text_config=text_sizes(
            tokens,
            sliding_window=4096,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 6, 4]}
                for kind in ("sliding_attention", "full_attention")
            },
        ),
        video_token_id=tokens.convert_tokens_to_ids("<|VIDEO_PAD|>"),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|VISION_START|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|VISION_END|>"),
        **image_token(tokens, "<|IMAGE_PAD|>"),
    )
    return config, tf.CohereCompassProcessor(
        image_processor=tf.CohereCompassImageProcessorPil(patch_size=16, size=ANY_SIZE),
        video_processor=tf.CohereCompassVideoProcessor(patch_size=16),
        tokenizer=tokens,
        chat_template=template("<|VISION_START|><|IMAGE_PAD|><|VISION_END|>"),
    )


OTHER: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        lfm2_vl,
        aria,
        janus,
        gemma4,
        llama4,
        got_ocr2,
        deepseek_vl_hybrid,
        minicpmv4_6,
        qwen3_5_moe,
        paddleocr_vl,
        qianfan_ocr,
        exaone4_5,
        hyperclovax_vision_v2,
        glm4v_moe,
        glm_ocr,
        llava_next_video,
        video_llava,
        ernie4_5_vl_moe,
        cohere_compass,
    )
}
