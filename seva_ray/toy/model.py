"""The first toy base: a LLaVA of one million parameters with a word-level processor, which transformers and vLLM load.

In: a seed. Out: a `LlavaForConditionalGeneration`, and a directory with the layout and key names of the published
LLaVA-1.5 checkpoints. A 48 px image becomes 36 image tokens, and every word of the toy world is one token.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from seva_ray.toy.world import SIZE_PX, words

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNK, BOS, EOS, PAD, IMAGE = range(5)
VOCABULARY = (*SPECIAL, "USER:", "ASSISTANT:", *words())
PATCH_PX = 8
TOKEN_PX = PATCH_PX
"""Side of the part of an image that becomes one token, in px."""
SIZES_PX = ((SIZE_PX, SIZE_PX),)
"""Heights and widths of the pictures that it learns from, in px."""
OPENING, CLOSING = (BOS, VOCABULARY.index("USER:")), ()
"""Tokens before and after those of the image, with which every prompt begins."""

# This renders the same text as the published llava-1.5-hf template, without its trailing space after an answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else ' ' }}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)

# transformers 5 leaves out a level of the names that the published checkpoints have and that vLLM looks for.
_SAVED_PREFIXES = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def build(seed: int) -> LlavaForConditionalGeneration:
    """A model with random weights that follow from the seed."""
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "max_position_embeddings": 1024}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(
            shape(SIZE_PX, PATCH_PX, vision | {"num_attention_heads": 4}, text | {"num_attention_heads": 2})
        )
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    return model


def shape(size_px: int, patch_px: int, vision: Mapping[str, int], text: Mapping[str, int]) -> LlavaConfig:
    """A LLaVA over the toy's vocabulary, for images of `size_px`. `vision` and `text` are the sizes of its parts."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=size_px, patch_size=patch_px, projection_dim=64, **vision),
        text_config=LlamaConfig(
            vocab_size=len(VOCABULARY),
            num_key_value_heads=text["num_attention_heads"],
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            tie_word_embeddings=False,
            **text,
        ),
        image_token_index=IMAGE,
        image_seq_length=(size_px // patch_px) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


def image_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the language model reads for normalised images of 48 px, (B, 3, H, W) -> (B, 36, hidden)."""
    states = model.model.vision_tower(pixels).last_hidden_state[:, 1:]  # without the class token
    return model.model.multi_modal_projector(states)


def positions(model: LlavaForConditionalGeneration, grid: tuple[int, int]) -> Tensor:
    """The positions of a prompt's beginning, up to CLOSING, with an image of grid height x width tokens: (1, P)."""
    return torch.arange(len(OPENING) + grid[0] * grid[1] + len(CLOSING))[None]


def vision_parts(model: LlavaForConditionalGeneration) -> tuple[list[nn.Module], nn.Module, nn.Module]:
    """The parts of the vision tower, its layers, and what leads from it to the language model."""
    tower = model.model.vision_tower
    return [tower], tower.encoder, model.model.multi_modal_projector


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word. Encoding starts with `<s>`, and decoding joins words by spaces."""
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    fast.decoder = decoders.WordPiece(prefix="\x00", cleanup=False)  # joins words by spaces, as no word has the prefix
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )


def processor(size_px: int = SIZE_PX, patch_px: int = PATCH_PX) -> LlavaProcessor:
    """The tokenizer, CLIP's image processor (Pillow's, which differs from torchvision's) and chat template."""
    size = {"height": size_px, "width": size_px}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size_px}, crop_size=size),
        tokenizer=tokenizer(),
        patch_size=patch_px,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def published_name(name: str, prefixes: Mapping[str, str] = _SAVED_PREFIXES) -> str:
    """The name of a parameter in the published checkpoints."""
    for prefix, saved in prefixes.items():
        if name.startswith(prefix):
            return saved + name.removeprefix(prefix)
    raise AssertionError(f"no published name for {name}")


def save(model: LlavaForConditionalGeneration, directory: str | Path) -> None:
    write(model, processor(), _SAVED_PREFIXES, Path(directory))


def write(model: Any, made_with: Any, prefixes: Mapping[str, str], directory: Path) -> None:
    """Write weights, configuration and processor. `config.json` is written last, so a directory with it is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {published_name(name, prefixes): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    made_with.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
