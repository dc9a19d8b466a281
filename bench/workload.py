"""What engines are measured on: models with random weights, and prompts whose images are all different.

No model ever emits the end token, so that all responses are as long as the token limit. Equal images would be
answered from vLLM's caches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from transformers import GenerationConfig, LlavaForConditionalGeneration

from bench.qwen_shaped import save_qwen_shaped
from seva_ray.core.records import Prompt
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.toy.model import BOS, EOS, PAD, build, processor, save, shape
from seva_ray.toy.world import CAMERAS, make_scene, questions, render
from seva_ray.vlm.models import Model, model_at

MODELS = Path("build/bench/models")
VIEW = "diffusion-500"
DECODING = Decoding(max_new_tokens=32)


@dataclass(frozen=True, kw_only=True)
class DistinctImages:
    """One question about each of many toy scenes, in pictures of a set size."""

    kind: ClassVar[str] = "DistinctImages"

    num_prompts: int
    side_px: int
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        for index in range(self.num_prompts):
            scene = make_scene(7, "unlabelled", index)
            file = BytesIO()
            picture = Image.fromarray(render(scene, CAMERAS["deployment"])).resize((self.side_px, self.side_px))
            picture.save(file, format="JPEG", quality=90)
            name = f"{index:06d}"
            question = questions(scene)[0].text
            yield Prompt(prompt_id=name, image_id=name, question=question, source="bench", image_bytes=file.getvalue())


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One model's shape, and how much it is given."""

    name: str
    side_px: int
    num_prompts: int
    shard_size: int
    max_model_len: int

    @property
    def source(self) -> DistinctImages:
        return DistinctImages(num_prompts=self.num_prompts, side_px=self.side_px)

    @property
    def model(self) -> Model:
        directory = MODELS / self.name
        if not (directory / "config.json").exists():
            {"toy": save_toy, "llava-shaped": save_llava_shaped, "qwen-shaped": save_qwen_shaped}[self.name](directory)
        return model_at(str(directory.resolve()))

    @property
    def engine(self) -> VllmEngine:
        return VllmEngine(dtype="float32", max_model_len=self.max_model_len, enforce_eager=True)


TOY = Workload(name="toy", side_px=64, num_prompts=3072, shard_size=256, max_model_len=256)
LLAVA_SHAPED = Workload(name="llava-shaped", side_px=400, num_prompts=288, shard_size=16, max_model_len=1024)
"""336 px, 576 image tokens, a language model of hidden size 512 and 8 layers."""

QWEN_SHAPED = Workload(name="qwen-shaped", side_px=560, num_prompts=288, shard_size=16, max_model_len=1024)
"""Up to 400 image tokens, and a language model of the same size."""


def save_toy(directory: Path) -> None:
    model = build(seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)  # so that its answers are no near ties
    save(without_end(model), directory)


def save_llava_shaped(directory: Path) -> None:
    """The proportions of LLaVA-1.5: as many image tokens, a vision tower much smaller than the language model."""
    vision = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(shape(336, 14, vision, text | {"max_position_embeddings": 2048}))
    save(without_end(model), directory)
    processor(336, 14).save_pretrained(directory)  # in place of the toy's


def without_end(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The end token's score is 0, which some other token's always exceeds."""
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    with torch.no_grad():
        model.lm_head.weight[EOS] = 0
    return model
