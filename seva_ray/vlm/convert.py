"""Write a LLaVA checkpoint as a model in the transformers format: configuration, tokenizer and processor, then weights.

The prompt of its chat template is that of LLaVA's templates. `check_served` finds whether anything is missing.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.families import check_served
from seva_ray.vlm.llava_format import (
    VOCABULARY,
    Checkpoint,
    in_place,
    read_json,
    with_more_rows,
    write_weights,
)
from seva_ray.vlm.model_files import TOKENIZERS

LLAMA = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act", "bos_token_id", "eos_token_id", "vocab_size",
)  # fmt: skip
"""Fields of LLaVA's configuration that describe its language model."""
CLIP_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""CLIP ViT-L/14-336, the vision tower of LLaVA-1.5."""
ROWS = 64
"""The vocabulary is filled up to a multiple of this number of rows, as in the published port."""


def convert(checkpoint: Checkpoint, directory: str) -> None:
    """Write the model. If anything fails, nothing is left under its name.

    Raises: InputError if a file is missing, if a weight is unknown or missing, or if the result cannot be served.
    """
    from transformers import GenerationConfig

    target = Path(directory)
    made = target.with_name(f"{target.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        tokenizer = tokenizer_of(checkpoint)
        image_token = tokenizer.convert_tokens_to_ids("<image>")
        config = config_of(checkpoint, len(tokenizer), image_token, tokenizer.pad_token_id)
        processor_of(checkpoint, tokenizer, config).save_pretrained(made)
        shapes = write_weights(of_config(checkpoint.weights(), config), made)
        check_shapes(checkpoint, shapes, config)
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        GenerationConfig(**special).save_pretrained(made)
        config.save_pretrained(made)
        check_served(str(made))
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    in_place(target, made)


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The base's tokenizer, with `<image>` and `<pad>` behind its vocabulary."""
    import tempfile

    from transformers import AutoTokenizer

    source = Path(checkpoint.tokens_from)
    if not any((source / name).is_file() for name in TOKENIZERS):
        raise InputError(f"model {source}: no {' or '.join(TOKENIZERS)}")
    with tempfile.TemporaryDirectory() as folder:
        # Without config.json, whose model type is LLaVA's own.
        for file in source.iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "added_tokens")):
                shutil.copy(file, folder)
        try:
            # LLaVA tokenises what stands before and behind the image one by one. That is what `legacy` does.
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, legacy=True, extra_special_tokens={"image_token": "<image>"}
            )
        except Exception as error:  # broken files raise all kinds of errors
            raise InputError(f"model {source}: its tokenizer cannot be read ({line_of(error)})") from None
    if tokenizer.pad_token in (None, tokenizer.unk_token):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def config_of(checkpoint: Checkpoint, num_tokens: int, image_token: int, pad_token: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    config = checkpoint.config
    text = {name: config[name] for name in LLAMA if config.get(name) is not None}
    text["vocab_size"] = max(text["vocab_size"], math.ceil(num_tokens / ROWS) * ROWS)
    vision = CLIPVisionConfig(**vision_config(checkpoint))
    patches = (vision.image_size // vision.patch_size) ** 2
    return LlavaConfig(
        text_config=LlamaConfig(**text, pad_token_id=pad_token, tie_word_embeddings=False),
        vision_config=vision,
        image_token_index=image_token,
        image_seq_length=patches,
        pad_token_id=pad_token,
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy={"patch": "default", "cls_patch": "full"}[
            config.get("mm_vision_select_feature", "patch")
        ],
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        dtype=config.get("torch_dtype", "float16"),
        architectures=["LlavaForConditionalGeneration"],
    )


def vision_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if checkpoint.vision_tower:
        config = read_json(Path(checkpoint.vision_tower, "config.json"))
        return dict(config.get("vision_config", config))
    return CLIP_336


def processor_of(checkpoint: Checkpoint, tokenizer: Any, config: Any) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    from seva_ray.toy.model import CHAT_TEMPLATE

    side = config.vision_config.image_size
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def of_config(weights: Iterator[tuple[str, Any]], config: Any) -> Iterator[tuple[str, Any]]:
    """The weights in one data type, with a row for every token."""
    import torch

    dtype = getattr(torch, str(config.dtype).removeprefix("torch."))
    for name, tensor in weights:
        rows = config.text_config.vocab_size if name in VOCABULARY else len(tensor)
        yield name, with_more_rows(tensor.to(dtype), rows)


def check_shapes(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], config: Any) -> None:
    """Raises: InputError if a weight of the model is missing, unknown or of another shape."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from seva_ray.toy.model import published_name

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    wanted = {published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if shapes.get(name) != wanted.get(name):
            there, right = (str(found.get(name, "none")) for found in (shapes, wanted))
            raise checkpoint.refusal(f"weight {name}: it has the shape {there}, and the configuration says {right}")
