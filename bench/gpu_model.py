"""LLaVA with random weights and batches of random tokens, at the shapes of LLaVA-1.5-7B or tiny, for bench/gpu.py."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seva_ray.dpo.batch import Branch, layout
from seva_ray.vlm.rows import Row


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes of the model and of a prompt."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    side: int
    """Side of an image, in pixels."""
    patch: int
    text_tokens: int
    """Number of tokens of a prompt, without those of its image."""
    rank: int
    """Rank of the adapter."""
    dtype: torch.dtype

    @property
    def image_tokens(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def image_id(self) -> int:
        return self.vocabulary - 1


SEVEN_B = Shapes(
    hidden=4096,
    layers=32,
    heads=32,
    intermediate=11008,
    vocabulary=32064,
    vision_hidden=1024,
    vision_layers=24,
    side=336,
    patch=14,
    text_tokens=44,
    rank=128,
    dtype=torch.bfloat16,
)
TINY = Shapes(
    hidden=128,
    layers=2,
    heads=2,
    intermediate=256,
    vocabulary=100,
    vision_hidden=64,
    vision_layers=2,
    side=56,
    patch=14,
    text_tokens=12,
    rank=8,
    dtype=torch.float32,
)


def build(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Any:
    """A LLaVA with random weights."""
    from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

    text = LlamaConfig(
        hidden_size=shapes.hidden,
        num_hidden_layers=shapes.layers,
        num_attention_heads=shapes.heads,
        num_key_value_heads=shapes.heads,
        intermediate_size=shapes.intermediate,
        vocab_size=shapes.vocabulary,
        max_position_embeddings=4096,
    )
    vision = CLIPVisionConfig(
        hidden_size=shapes.vision_hidden,
        num_hidden_layers=shapes.vision_layers,
        num_attention_heads=shapes.vision_hidden // 64,
        intermediate_size=4 * shapes.vision_hidden,
        image_size=shapes.side,
        patch_size=shapes.patch,
    )
    config = LlavaConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_index=shapes.image_id,
        image_seq_length=shapes.image_tokens,
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return model.to(device, dtype).eval()


def adapted(model: Any, rank: int) -> Any:
    """The model with an adapter in its own dtype, as under DeepSpeed, and with gradient checkpointing. The adapter is
    not zero, so that the policy differs from its start."""
    from peft import get_peft_model

    from seva_ray.dpo.policy import Lora

    device = model.device
    model = get_peft_model(model, Lora(rank=rank, alpha=2 * rank).peft(model), autocast_adapter_dtype=False)
    random = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.002, generator=random)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    return model.train()


def batch_of(shapes: Shapes, pairs: int, response: int, packed: bool, device: torch.device) -> dict[str, Tensor]:
    """A batch as PreferenceCollator makes it, from random tokens. All prompts, and all responses, have one length."""
    random = torch.Generator().manual_seed(0)

    def draw(number: int) -> list[int]:
        return torch.randint(5, shapes.vocabulary - 40, (number,), generator=random).tolist()

    rows: list[list[Branch]] = []
    for place in range(pairs):
        ids = [1, *[shapes.image_id] * shapes.image_tokens, *draw(shapes.text_tokens - 1)]
        prompt = Row(ids=ids, num_image_tokens=shapes.image_tokens)
        row = [Branch(slot=2 * place + number, prompt=prompt, response=draw(response)) for number in (0, 1)]
        rows += [row] if packed else [[branch] for branch in row]
    pixels = torch.randn(pairs, 3, shapes.side, shapes.side, generator=random)
    batch = layout(rows, 0)
    batch["pixel_values"] = (pixels if packed else pixels.repeat_interleave(2, 0)).to(shapes.dtype)
    batch["num_tokens"] = torch.full((pairs, 2), response)
    return {name: values.to(device) for name, values in batch.items()}


def flops_of(shapes: Shapes, pairs: int, response: int, packed: bool) -> float:
    """Operations that a step needs: linear layers and attention, forward and backward, without those of checkpointing.
    Frozen weights have no gradient of their own."""
    linear = shapes.layers * (4 * shapes.hidden**2 + 3 * shapes.hidden * shapes.intermediate)
    lora = shapes.layers * shapes.rank * (8 * shapes.hidden + 3 * (shapes.hidden + shapes.intermediate))
    prompt = shapes.image_tokens + shapes.text_tokens
    if packed:
        tokens = pairs * (prompt - 1 + 2 * (response + 1))
        seen = prompt**2 / 2 + 2 * (response * prompt + response**2 / 2)
    else:
        tokens, seen = 2 * pairs * (prompt + response), (prompt + response) ** 2
    attention = 4 * shapes.hidden * shapes.layers * pairs * seen
    images = pairs if packed else 2 * pairs
    vision = images * 2 * (shapes.image_tokens + 1) * shapes.vision_layers * 12 * shapes.vision_hidden**2
    head = 2 * pairs * 2 * response * shapes.hidden * shapes.vocabulary
    return 4 * tokens * linear + 6 * tokens * lora + 3 * attention + vision + 2 * head
