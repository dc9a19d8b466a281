"""Small checkpoints with random weights in LLaVA's own format: whole ones, and adapters as its trainer saves them."""

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.processors import SENTENCES

NUM_TOKENS = 300
SETTINGS = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "torch_dtype": "float32",
}
TEXT = {
    "vocab_size": NUM_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 8,
}


def original() -> Any:
    """The model itself, with a vocabulary of NUM_TOKENS and random weights, norms and biases included."""
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT, tie_word_embeddings=False),
        vision_config=CLIPVisionConfig(**VISION),
        image_token_index=NUM_TOKENS - 1,
        image_seq_length=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return model


def llava_names(model: Any) -> dict[str, torch.Tensor]:
    """The weights by the names of LLaVA's modules: LlavaLlamaForCausalLM, its mm_projector and its CLIPVisionTower."""
    named = {f"model.{name}": weight for name, weight in model.model.language_model.state_dict().items()}
    named["lm_head.weight"] = model.lm_head.weight.detach()
    projector = model.model.multi_modal_projector
    for number, linear in ((0, projector.linear_1), (2, projector.linear_2)):
        named |= {f"model.mm_projector.{number}.{name}": weight for name, weight in linear.state_dict().items()}
    tower = "model.vision_tower.vision_tower.vision_model."
    return named | {f"{tower}{name}": weight for name, weight in model.model.vision_tower.state_dict().items()}


def write_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model as Vicuna's: BPE with bytes for unknown letters."""
    prefix = folder / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_prefix=str(prefix), model_type="bpe", vocab_size=NUM_TOKENS,
        byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    prefix.with_suffix(".vocab").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | tokens))
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


def write_whole(folder: Path, model: Any, with_tower: bool = True) -> sentencepiece.SentencePieceProcessor:
    """Write a checkpoint like liuhaotian/llava-v1.5-7b: two pickled files and their index."""
    folder.mkdir(parents=True)
    weights = llava_names(model) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    weights = {name: weight for name, weight in weights.items() if with_tower or "vision_tower" not in name}
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name].clone() for name in half}, folder / file)
        index |= dict.fromkeys(half, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(SETTINGS | TEXT))
    return write_tokenizer(folder)


def write_tower(folder: Path, model: Any) -> str:
    """The vision tower alone, as OpenAI's CLIP has it."""
    folder.mkdir()
    weights = {f"vision_model.{name}": weight for name, weight in model.model.vision_tower.state_dict().items()}
    others = {"vision_model.embeddings.position_ids": torch.zeros(1, 5), "text_model.norm.bias": torch.zeros(4)}
    torch.save(weights | others | {"logit_scale": torch.zeros(())}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": VISION}))
    return str(folder)


def write_adapter(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    """Write an adapter with the projector beside it, as LLaVA's trainer does.

    Returns the language model's weights as PEFT merges them, and the projector, by LLaVA's names.
    """
    text = LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=False))
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.lm_head.load_state_dict(model.lm_head.state_dict())
    tuned = get_peft_model(text, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    tuned.save_pretrained(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    projector = {name: weight + 1 for name, weight in llava_names(model).items() if "mm_projector" in name}
    beside = {f"base_model.model.{name}": weight for name, weight in projector.items()}
    torch.save(beside, folder / "non_lora_trainables.bin")
    (folder / "config.json").write_text(json.dumps(SETTINGS | TEXT))
    return dict(tuned.merge_and_unload().state_dict()) | projector


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))
