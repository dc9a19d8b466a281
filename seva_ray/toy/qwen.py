"""The second toy base: a tiny Qwen2.5-VL, which reads images of any size and has positions on three axes.

In: a seed. Out: a `Qwen2_5_VLForConditionalGeneration`, and a directory as of the published checkpoints. Its words are
those of the first base. A token stands for 16 x 16 px, so a picture of 48 px becomes 9 tokens, and a picture of 48 x 64
px becomes 12.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
)

from seva_ray.toy import model as llava
from seva_ray.toy.model import BOS, EOS, IMAGE, PAD, VOCABULARY
from seva_ray.toy.world import SIZE_PX

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
VISION_START, VISION_END, VIDEO = range(len(VOCABULARY), len(VOCABULARY) + len(MARKS))
PATCH_PX, MERGED, FRAMES = 8, 2, 2
TOKEN_PX = PATCH_PX * MERGED
STRETCHED_PX = 64
SIZES_PX = tuple((height, width) for height in (SIZE_PX, STRETCHED_PX) for width in (SIZE_PX, STRETCHED_PX))
OPENING, CLOSING = (*llava.OPENING, VISION_START), (VISION_END,)
SIZE = {"shortest_edge": 32**2, "longest_edge": STRETCHED_PX**2}
"""Bounds of the number of pixels of an image, in the words of the image processor. Others are scaled."""

CHAT_TEMPLATE = llava.CHAT_TEMPLATE.replace("<image>\n", "<|vision_start|><image><|vision_end|>")


def build(seed: int) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 3,
            "out_hidden_size": 128,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGED,
            "temporal_patch_size": FRAMES,
            "window_size": 2 * TOKEN_PX,
            "fullatt_block_indexes": [0, 2],
        },
        text_config={
            "vocab_size": len(VOCABULARY) + len(MARKS),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        tie_word_embeddings=False,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    return model


def image_features(model: Qwen2_5_VLForConditionalGeneration, pixels: Tensor) -> Tensor:
    grid = torch.tensor([[1, pixels.shape[2] // PATCH_PX, pixels.shape[3] // PATCH_PX]]).expand(len(pixels), -1)
    return model.model.visual(patches(pixels), grid).pooler_output.view(len(pixels), -1, model.lm_head.in_features)


def patches(pixels: Tensor) -> Tensor:
    """Normalised images of one size, (B, 3, H, W), as the image processor lists their patches: (patches, values)."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // TOKEN_PX, width // TOKEN_PX
    parts = pixels.reshape(batch, channels, rows, MERGED, PATCH_PX, columns, MERGED, PATCH_PX)
    listed = parts.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]  # one frame
    return listed.expand(*listed.shape[:6], FRAMES, PATCH_PX, PATCH_PX).reshape(
        batch * rows * columns * MERGED**2, channels * FRAMES * PATCH_PX**2
    )


def positions(model: Qwen2_5_VLForConditionalGeneration, grid: tuple[int, int]) -> Tensor:
    ids = torch.tensor([[*OPENING, *[IMAGE] * (grid[0] * grid[1]), *CLOSING]])
    in_patches = torch.tensor([[1, grid[0] * MERGED, grid[1] * MERGED]])
    found, _ = model.model.get_rope_index(ids, (ids == IMAGE).int(), in_patches)
    return found[:, 0]


def vision_parts(model: Qwen2_5_VLForConditionalGeneration) -> tuple[Sequence[nn.Module], nn.Module, nn.Module]:
    visual = model.model.visual
    return [visual.patch_embed, visual.blocks], visual.blocks, visual.merger


def tokenizer() -> PreTrainedTokenizerFast:
    """The first base's, with the marks of this family."""
    words = llava.tokenizer()
    words.add_tokens(list(MARKS), special_tokens=True)
    return words


def processor() -> Qwen2_5_VLProcessor:
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(patch_size=PATCH_PX, merge_size=MERGED, size=SIZE),
        tokenizer=tokenizer(),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH_PX, merge_size=MERGED, size=SIZE),
        chat_template=CHAT_TEMPLATE,
    )


def save(model: Qwen2_5_VLForConditionalGeneration, directory: str | Path) -> None:
    prefixes = {"model.visual.": "visual.", "model.language_model.": "model.", "lm_head.": "lm_head."}
    llava.write(model, processor(), prefixes, Path(directory))
