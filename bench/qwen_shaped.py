"""A Qwen2.5-VL with random weights, as small as the LLaVA that DPO steps are measured on: images of any size, as lists
of patches, with positions on three axes."""

from pathlib import Path

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
)

from seva_ray.toy.model import BOS, EOS, IMAGE, PAD, tokenizer

PLACEHOLDER = "<|vision_start|><image><|vision_end|>"
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + PLACEHOLDER + "{% else %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def save_qwen_shaped(directory: Path) -> None:
    """A language model of hidden size 512 and 8 layers, and a vision tower of hidden size 256 and 4 layers."""
    tokens = tokenizer()
    tokens.add_tokens(["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"], special_tokens=True)
    text = {
        "vocab_size": len(tokens),
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    vision = {"depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "out_hidden_size": 512}
    torch.manual_seed(5)
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"fullatt_block_indexes": [3]},
        tie_word_embeddings=False,
        image_token_id=IMAGE,
        video_token_id=tokens.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokens.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<|vision_end|>"),
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(directory)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(),
        tokenizer=tokens,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
