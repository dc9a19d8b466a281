"""Checkpoints of today's vision-language families: a real configuration, the family's real processor, tiny weights.

`save_family(name, directory)` writes one. Without `weights`, an empty file is in their place, which is enough for all
that never loads a model. With them, answers are random, differ from image to image, and are no near ties.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import processors as post_processors

SENTENCES = [
    "What colour is the cat on the left? The cat is black and white, and it sits beside two dogs.",
    "user assistant system USER: ASSISTANT: How many are there? There are three red cubes and one blue ball.",
]
SIZE = {"height": 28, "width": 28}
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
"""Shapes that an image may be cut into tiles by."""


def tokenizer(*special: str, bos: str | None = None, eos: str = "</s>", pad: str = "<pad>", **named: str) -> Any:
    """Byte-level BPE. `named`: special tokens that a processor looks up as attributes, such as image_token."""
    every = dict.fromkeys([*([bos] if bos else []), pad, eos, *special, *named.values()])
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = 330 + len(every)
    fast.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(every), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if bos == "<bos>":  # vLLM looks up Gemma's tokens of one to four newlines
        fast.add_tokens(["\n" * number for number in range(1, 5)])
    if bos:
        fast.post_processor = post_processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, fast.token_to_id(bos))]
        )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def template(image: str, before: str = "USER: ", after: str = " ASSISTANT:", start: str = "") -> str:
    """One that shows an image as `image`; what is outside a user's turn is written as it is."""
    return (
        start + "{% for message in messages %}{% if message['role'] == 'user' %}" + before + "{% endif %}"
        "{% for part in message['content'] %}{{ '" + image + "' if part['type'] == 'image' else part['text'] }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}" + after + "{% endif %}"
    )


def chatml(image: str) -> str:
    return template(image, before="<|im_start|>user\n", after="<|im_end|>\n<|im_start|>assistant\n")


def text_sizes(tokens: Any, **more: Any) -> dict[str, Any]:
    """The configuration of a language model that takes no time."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        **more,
    }


TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
BLOCKS = {"hidden_size": 64, "depth": 2, "num_heads": 2}
"""A tower in the words of Qwen2-VL and the families like it."""
VISION = TOWER | {"image_size": 28, "patch_size": 7}
SIGLIP = VISION | {"vision_use_head": False, "model_type": "siglip_vision_model"}

Made = tuple[Any, Any]
"""Configuration and processor."""


def ids(tokens: Any, **words: str) -> dict[str, int]:
    """The fields of a configuration that name special tokens: `image_token_id` for image="<image>"."""
    return {f"{name}_token_id": tokens.convert_tokens_to_ids(word) for name, word in words.items()}


def indices(tokens: Any, **words: str) -> dict[str, int]:
    """The same for configurations that call them `image_token_index`."""
    return {f"{name}_token_index": tokens.convert_tokens_to_ids(word) for name, word in words.items()}


def rope(*section: int, **more: Any) -> dict[str, Any]:
    """Positions on several axes, with so many frequencies for each."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [*section], **more}


def any_size(patch_px: int) -> dict[str, int]:
    """Images of 4 to 64 patches of this width, merged ones."""
    return {"shortest_edge": 4 * patch_px**2, "longest_edge": 64 * patch_px**2}


def qwen(
    config: Any, processor: Any, video_processor: Any, patch_size: int, vision: dict[str, Any], **text: Any
) -> Made:
    """Images of any size, as a list of patches; positions of an image have three axes."""
    marks = {"vision_start": "<|vision_start|>", "image": "<|image_pad|>", "vision_end": "<|vision_end|>"}
    tokens = tokenizer("<|im_start|>", "<|im_end|>", "<|video_pad|>", *marks.values())
    axes = rope(6, 5, 5, mrope_interleaved=True) if patch_size == 16 else rope(4, 6, 6)
    return config(
        text_config=text_sizes(tokens, rope_parameters=axes, **text),
        vision_config=BLOCKS | vision,
        tie_word_embeddings=False,
        **ids(tokens, video="<|video_pad|>", **marks),
    ), processor(
        image_processor=tf.Qwen2VLImageProcessorPil(patch_size=patch_size, size=any_size(2 * patch_size)),
        tokenizer=tokens,
        video_processor=video_processor(patch_size=patch_size),
        chat_template=chatml("".join(marks.values())),
    )


def qwen2_vl() -> Made:
    vision = {"embed_dim": 64, "mlp_ratio": 2}
    return qwen(tf.Qwen2VLConfig, tf.Qwen2VLProcessor, tf.Qwen2VLVideoProcessor, 14, vision)


def qwen2_5_vl() -> Made:
    return qwen(tf.Qwen2_5_VLConfig, tf.Qwen2_5_VLProcessor, tf.Qwen2VLVideoProcessor, 14, QWEN2_5_VISION)


LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
"""A language model of which one layer has no attention."""
QWEN2_5_VISION = {"intermediate_size": 128, "out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1]}
QWEN3_VISION = {"intermediate_size": 128, "out_hidden_size": 64, "patch_size": 16, "num_position_embeddings": 64} | {
    "deepstack_visual_indexes": [0, 1]
}


SHALLOW = {name: value for name, value in QWEN3_VISION.items() if "deepstack" not in name}
"""The same tower, of which the language model reads the last layer alone."""


def qwen3_vl() -> Made:
    return qwen(tf.Qwen3VLConfig, tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor, 16, QWEN3_VISION)


def qwen3_vl_moe() -> Made:
    """Four experts, two of which read a token."""
    experts: dict[str, Any] = {
        "norm_topk_prob": True,
        "moe_intermediate_size": 48,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
    }
    return qwen(
        tf.Qwen3VLMoeConfig,
        tf.Qwen3VLProcessor,
        tf.Qwen3VLVideoProcessor,
        16,
        QWEN3_VISION,
        mlp_only_layers=[],
        **experts,
    )


def clip() -> Any:
    """A tower of which a family reads the second last layer."""
    return tf.CLIPVisionConfig(**VISION | {"num_hidden_layers": 3, "projection_dim": 32})


def clip_images() -> Any:
    return tf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE)


def images_in_tiles() -> Any:
    return tf.LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE, image_grid_pinpoints=PINPOINTS)


def pixtral_tower() -> Any:
    return tf.PixtralVisionConfig(**VISION | {"image_size": 112, "patch_size": 14, "head_dim": 32})


def pixtral_images() -> Any:
    return tf.PixtralImageProcessorPil(size={"longest_edge": 112}, patch_size=14)


def llava() -> Made:
    """An image is cropped to a square."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    config = tf.LlavaConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **indices(tokens, image="<image>"),
        image_seq_length=16,
    )
    return config, tf.LlavaProcessor(
        image_processor=clip_images(),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template("<image>\n"),
    )


def llava_next() -> Made:
    """Tiles and an overview."""
    tokens = tokenizer(bos="<s>", image_token="<image>")
    config = tf.LlavaNextConfig(
        vision_config=clip(),
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        **indices(tokens, image="<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    return config, tf.LlavaNextProcessor(
        image_processor=images_in_tiles(),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template("<image>\n"),
    )


def llava_onevision() -> Made:
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>", video_token="<video>")
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**SIGLIP),
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        **indices(tokens, image="<image>", video="<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return config, tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessorPil(size=SIZE, image_grid_pinpoints=PINPOINTS),
        tokenizer=tokens,
        video_processor=tf.LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>\n"),
    )


def llava_interleave() -> Made:
    """LLaVA's model type with a tower that squeezes an image into a square, in place of cropping it."""
    tokens = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    config = tf.LlavaConfig(
        vision_config=tf.SiglipVisionConfig(**SIGLIP),
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        **indices(tokens, image="<image>"),
        image_seq_length=16,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return config, tf.LlavaProcessor(
        image_processor=tf.SiglipImageProcessorPil(size=SIZE),
        tokenizer=tokens,
        patch_size=7,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<image>",
        chat_template=chatml("<image>\n"),
    )


def internvl() -> Made:
    tokens = tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = tf.InternVLConfig(
        vision_config=VISION | {"image_size": [28, 28], "patch_size": [7, 7]},
        text_config=tf.Qwen2Config(**text_sizes(tokens)),
        image_seq_length=4,
        tie_word_embeddings=False,
        **ids(tokens, image="<IMG_CONTEXT>"),
    )
    return config, tf.InternVLProcessor(
        image_processor=tf.GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=4),
        tokenizer=tokens,
        video_processor=tf.InternVLVideoProcessor(size=SIZE),
        image_seq_length=4,
        chat_template=chatml("<IMG_CONTEXT>\n"),
    )


def idefics3(config: Any = tf.Idefics3Config) -> Made:
    """Named tiles, and a mask of the pixels that are none."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
    tokens = tokenizer(*tiles, *marks, bos="<|im_start|>", eos="<end_of_utterance>")
    return config(
        vision_config=VISION,
        text_config=tf.LlamaConfig(**text_sizes(tokens)),
        scale_factor=2,
        pad_token_id=tokens.pad_token_id,
        **ids(tokens, image="<image>"),
    ), tf.Idefics3Processor(
        image_processor=tf.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer=tokens,
        image_seq_len=4,
        chat_template=template("<image>", before="User:", after="<end_of_utterance>\nAssistant:"),
    )


def smolvlm() -> Made:
    """Idefics3's files under the names of its successor, whose processor cannot be made without `num2words`."""
    return idefics3(tf.SmolVLMConfig)


def gemma3() -> Made:
    """Tokens of an image see each other in both directions."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokens = tokenizer(bos="<bos>", **named)
    layers = ["sliding_attention", "full_attention"]
    config = tf.Gemma3Config(
        text_config=text_sizes(
            tokens, num_key_value_heads=2, sliding_window=4096, query_pre_attn_scalar=32, layer_types=layers
        ),
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        **indices(tokens, image="<image_soft_token>", boi="<start_of_image>", eoi="<end_of_image>"),
    )
    return config, tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessorPil(size=SIZE),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=template("<start_of_image>", start="{{ bos_token }}"),
    )


def paligemma() -> Made:
    """A prompt whose tokens all see each other."""
    tokens = tokenizer(bos="<bos>", image_token="<image>")
    image_processor = tf.SiglipImageProcessorPil(size=SIZE)
    image_processor.image_seq_length = 16
    text = text_sizes(tokens, tie_word_embeddings=True, query_pre_attn_scalar=32, use_bidirectional_attention=True)
    config = tf.PaliGemmaConfig(
        vision_config=SIGLIP | {"projection_dim": 64},
        text_config=tf.Gemma2Config(**text),
        **indices(tokens, image="<image>"),
        projection_dim=64,
        hidden_size=64,
        vocab_size=len(tokens),
        pad_token_id=tokens.pad_token_id,
    )
    return config, tf.PaliGemmaProcessor(
        image_processor=image_processor, tokenizer=tokens, chat_template=template("<image>", before="", after="")
    )


def mistral3(config: Any = tf.Mistral3Config, merge: int = 2) -> Made:
    """Images of any size, and tokens that end their rows."""
    tokens = tokenizer("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", bos="<s>")
    more = {"spatial_merge_size": merge} if merge > 1 else {"vision_feature_layer": -1}
    return config(
        vision_config=pixtral_tower(),
        text_config=tf.MistralConfig(**text_sizes(tokens)),
        **indices(tokens, image="[IMG]"),
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        **more,
    ), tf.PixtralProcessor(
        image_processor=pixtral_images(),
        tokenizer=tokens,
        patch_size=14,
        spatial_merge_size=merge,
        chat_template=template("[IMG]", before="[INST]", after="[/INST]", start="{{ bos_token }}"),
    )


def pixtral() -> Made:
    """LLaVA's model type with Pixtral's tower and processor."""
    return mistral3(tf.LlavaConfig, merge=1)


FAMILIES: dict[str, Callable[[], Made]] = {
    make.__name__: make
    for make in (
        *(qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe, llava, llava_next, llava_onevision, llava_interleave),
        *(pixtral, internvl, idefics3, smolvlm, gemma3, paligemma, mistral3),
    )
}


def save_family(name: str, directory: Path, weights: bool = False) -> str:
    """Write a family's checkpoint; its directory."""
    config, processor = FAMILIES[name]()
    config.save_pretrained(directory)
    processor.save_pretrained(directory)
    if name == "smolvlm":
        longest = {"longest_edge": 28}
        tf.SmolVLMVideoProcessor(size=longest, max_image_size=longest).save_pretrained(directory)
        settings = directory / "processor_config.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"processor_class": "SmolVLMProcessor"}))
    if weights:
        save_weights(config, processor.tokenizer, directory)
    else:
        save_file({}, directory / "model.safetensors")
    return str(directory)


def save_weights(config: Any, tokens: Any, directory: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.AutoModelForImageTextToText.from_config(config)
    tied = config.get_text_config().tie_word_embeddings
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim >= 2 and not weight.any():  # Gemma 3 begins with a projector that makes nothing of an image
                weight.normal_(0, 0.1)
            elif weight.ndim >= 2:  # a token whose embedding is tied to its logit would be its own likeliest next one
                weight.mul_(0.5 if tied and "embed_tokens" in key else 3)
    ends = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = tf.GenerationConfig(**ends)
    model.save_pretrained(directory)
    file = directory / "model.safetensors"
    weights = load_file(file)
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    if tower in ("clip_vision_model", "siglip_vision_model"):
        weights = {published(key): weight for key, weight in weights.items()}
    if config.model_type == "qwen3_vl_moe":  # published experts have input and output the other way round
        weights = {key: weight.mT.contiguous() if ".experts." in key else weight for key, weight in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})


def published(key: str) -> str:
    """The name of a weight in published checkpoints, which vLLM wants: transformers 5 leaves out a level of the names
    of CLIP's and SigLIP's towers."""
    tower = r"^vision_tower\.(?=(embeddings\.(patch|position|class)_embedding\b|encoder\.layers|p\w+_lay\w*norm))"
    return re.sub(tower, "vision_tower.vision_model.", key)
