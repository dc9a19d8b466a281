"""More checkpoints of families that nothing here was written for, like those of tests/more_models.py."""

from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.more_models import ANY_SIZE, SMALL_GLM, glm
from tests.tiny_models import (
    BLOCKS,
    LINEAR,
    PINPOINTS,
    QWEN2_5_VISION,
    QWEN3_VISION,
    SHALLOW,
    SIGLIP,
    SIZE,
    TOWER,
    VISION,
    Made,
    chatml,
    clip,
    ids,
    images_in_tiles,
    indices,
    qwen,
    rope,
    template,
    text_sizes,
    tokenizer,
)

SAM = {
    "hidden_size": 64,
    "mlp_dim": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "output_channels": 16,
    "patch_size": 16,
    "global_attn_indexes": [1],
    "window_size": 4,
}
GEMMA4 = ["sliding_attention", "full_attention", "full_attention"]
"""What an image's tokens see in the second layer shows in what the third one reads of them."""
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 48, "num_experts_per_tok": 2}


def lfm2_vl() -> Made:
    """Convolutions between the layers with attention."""
    marks = "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokens = tokenizer("<|im_start|>", "<|im_end|>", *marks, *tiles, image_token="<image>")
    text = text_sizes(tokens, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    config = tf.Lfm2VlConfig(
        vision_config=TOWER | {"patch_size": 7, "num_patches": 16, "vision_use_head": False},
        text_config=tf.Lfm2Config(**text),
        projector_hidden_size=64,
        **ids(tokens, image="<image>"),
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
        **ids(tokens, image="<image>"),
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
        **ids(tokens, image="<image>"),
    )
    return config, tf.JanusProcessor(
        image_processor=tf.JanusImageProcessorPil(size=SIZE, min_size=7),
        tokenizer=tokens,
        num_image_tokens=16,
        chat_template=template("<image>"),
    )


GEMMA4_MARKS = {name: f"<{name}>" for name in ("image", "boi", "eoi", "audio", "boa", "eoa")}


def gemma4_tokens() -> Any:
    return tokenizer("<|video|>", bos="<bos>", **{f"{name}_token": mark for name, mark in GEMMA4_MARKS.items()})


def gemma4_ids(tokens: Any) -> dict[str, int]:
    return ids(tokens, video="<|video|>", **{name: mark for name, mark in GEMMA4_MARKS.items() if name != "eoa"})


def gemma4() -> Made:
    tokens = gemma4_tokens()
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
        vision_config=TOWER | {"num_key_value_heads": 2, "head_dim": 32, "patch_size": 7},
        audio_config=None,
        **gemma4_ids(tokens),
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
        **indices(tokens, boi="<|image_start|>", eoi="<|image_end|>", image="<|patch|>"),
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
        vision_config=SAM | {"image_size": 256},
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        image_seq_length=16,
        **indices(tokens, image="<imgpad>"),
    )
    return config, tf.GotOcr2Processor(
        image_processor=tf.GotOcr2ImageProcessorPil(size={"height": 256, "width": 256}), tokenizer=tokens
    )


def deepseek_vl_hybrid() -> Made:
    """Two towers, which read an image at two resolutions."""
    tokens = tokenizer(bos="<bos>", image_token="<image_placeholder>")
    config = tf.DeepseekVLHybridConfig(
        vision_config=SIGLIP,
        high_res_vision_config=SAM | {"image_size": 64},
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **ids(tokens, image="<image_placeholder>"),
    )
    return config, tf.DeepseekVLHybridProcessor(
        image_processor=tf.DeepseekVLHybridImageProcessorPil(
            size=SIZE, high_res_size={"height": 64, "width": 64}, min_size=7
        ),
        tokenizer=tokens,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )


MINICPM_MARKS = "image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end"


def minicpm_tokens() -> Any:
    named = {f"{mark}_token": f"<{mark}>" for mark in MINICPM_MARKS}
    return tokenizer("<|im_start|>", "<|im_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>", **named)


def minicpmv4_6() -> Made:
    tokens = minicpm_tokens()
    config = tf.MiniCPMV4_6Config(
        vision_config=VISION | {"model_type": "minicpmv4_6_vision"},
        text_config=text_sizes(tokens, model_type="qwen3_5_text", **LINEAR),
        image_size=28,
        patch_size=7,
        insert_layer_id=0,
        **ids(tokens, image="<|image_pad|>"),
    )
    return config, tf.MiniCPMV4_6Processor(
        image_processor=tf.MiniCPMV4_6ImageProcessorPil(patch_size=7),
        video_processor=tf.MiniCPMV4_6VideoProcessor(),
        tokenizer=tokens,
        chat_template=chatml("<|image_pad|>"),
    )


def qwen3_5_moe() -> Made:
    return qwen(
        tf.Qwen3_5MoeConfig,
        tf.Qwen3VLProcessor,
        tf.Qwen3VLVideoProcessor,
        16,
        SHALLOW,
        num_experts=4,
        shared_expert_intermediate_size=48,
        **LINEAR,
        **EXPERTS,
    )


def paddleocr_vl() -> Made:
    tokens = tokenizer("<|IMAGE_START|>", "<|IMAGE_END|>", bos="<s>", image_token="<|IMAGE_PLACEHOLDER|>")
    config = tf.PaddleOCRVLConfig(
        vision_config=VISION | {"image_size": 56, "patch_size": 14},
        text_config=text_sizes(tokens, rope_parameters=rope(4, 6, 6)),
        **ids(tokens, vision_start="<|IMAGE_START|>", vision_end="<|IMAGE_END|>", image="<|IMAGE_PLACEHOLDER|>"),
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
        **ids(tokens, image="<IMG_CONTEXT>"),
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
        vision_config=BLOCKS | QWEN2_5_VISION | {"num_key_value_heads": 1},
        text_config=text_sizes(tokens, layer_types=["sliding_attention", "full_attention"], sliding_window=4096),
        **ids(tokens, video="<|video_pad|>", image="<|image_pad|>"),
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
        vision_config=BLOCKS | QWEN2_5_VISION,
        text_config=text_sizes(tokens),
        **ids(tokens, video="<|VIDEO_PAD|>", image="<|IMAGE_PAD|>"),
    )
    return config, tf.HyperCLOVAXVisionV2Processor(
        image_processor=tf.Qwen2VLImageProcessorPil(size=ANY_SIZE),
        video_processor=tf.Qwen2VLVideoProcessor(),
        tokenizer=tokens,
        chat_template=chatml("<|IMAGE_PAD|>"),
    )


def glm4v_moe() -> Made:
    experts = EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1}
    return glm(tf.Glm4vMoeConfig, vision=SMALL_GLM, **experts)


def glm_ocr() -> Made:
    return glm(tf.GlmOcrConfig, vision=SMALL_GLM)


def llava_next_video() -> Made:
    """LLaVA-NeXT that reads videos too."""
    tokens = tokenizer(bos="<s>", image_token="<image>", video_token="<video>")
    config = tf.LlavaNextVideoConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **indices(tokens, image="<image>", video="<video>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    return config, tf.LlavaNextVideoProcessor(
        image_processor=images_in_tiles(),
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
        **indices(tokens, image="<image>", video="<video>"),
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
    edges = {f"{kind}_{end}": f"<|{kind}_{end}|>".upper() for kind in ("image", "video") for end in ("start", "end")}
    marks = {"image": "<|IMAGE@placeholder|>", "video": "<|VIDEO@placeholder|>"} | edges
    tokens = tokenizer(*edges.values(), bos="<s>", **{f"{name}_token": mark for name, mark in marks.items()})
    config = tf.Ernie4_5_VLMoeConfig(
        vision_config=BLOCKS | {"intermediate_size": 128},
        text_config=text_sizes(
            tokens,
            moe_intermediate_size=[48, 48],
            moe_k=2,
            moe_num_experts=4,
            moe_num_shared_experts=1,
            mlp_layer_types=["dense", "sparse"],
            rope_parameters=rope(6, 6, 4),
        ),
        **ids(tokens, **marks),
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
        vision_config=BLOCKS | QWEN3_VISION,
        text_config=text_sizes(
            tokens,
            sliding_window=4096,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={kind: rope(6, 6, 4) for kind in ("sliding_attention", "full_attention")},
        ),
        **ids(tokens, video="<|VIDEO_PAD|>"),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|VISION_START|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|VISION_END|>"),
        **ids(tokens, image="<|IMAGE_PAD|>"),
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
