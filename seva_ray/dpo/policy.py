"""The policy: the starting model with a LoRA adapter on its language model, and its export.

DPO's reference is the starting model without the adapter. Vision tower, projector and output head do not change.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from seva_ray.core.checks import check_least
from seva_ray.vlm.encoding import Encoder

if TYPE_CHECKING:
    from peft import LoraConfig

LANGUAGE_MODEL_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""A pattern for full names, because a plain name such as `q_proj` would also match layers of the vision tower."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The LoRA adapter. The defaults are the paper's."""

    kind: ClassVar[str] = "Lora"

    rank: int = 1024
    """Rank of each update."""
    alpha: int = 2048
    """Scale of each update, which is multiplied by alpha / rank."""

    def __post_init__(self) -> None:
        check_least(self, 1, "rank", "alpha")

    def peft(self) -> "LoraConfig":
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=LANGUAGE_MODEL_LINEARS,
            task_type="CAUSAL_LM",
        )


def load_model(directory: str, dtype: str) -> Any:
    """Load the vision-language model of a directory, from safetensors and without remote code. The dtype `auto` is the
    one in which it is stored."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype, use_safetensors=True)


def freeze_all_but_language(model: Any) -> None:
    """Full training changes only the language model and its head; the image features stay the same."""
    for name, weight in model.named_parameters():
        weight.requires_grad_("language_model" in name or "lm_head" in name)


def load_policy(directory: str, adapter: str, dtype: str = "auto") -> Any:
    """Load the starting model with a saved adapter, in CPU memory. `auto` is the dtype in which the model is stored."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(directory, dtype), adapter, torch_device="cpu")


def without_image_gradients(model: Any) -> None:
    """Compute image features without gradients. Nothing that makes them is trained, but under gradient checkpointing
    PEFT makes the output of every embedding require gradients, also that of the vision tower."""
    import torch

    for name in ("vision_tower", "multi_modal_projector"):
        module = getattr(model.model, name)
        module.forward = torch.no_grad()(module.forward)


def merge(model: Any, device: Any = "cpu") -> Any:
    """The starting model with the adapter's updates added to its weights, which keep their own data type.

    Each sum is computed in float32 and rounded once. In bfloat16 the rounding would be about as large as the update.
    `device` computes the updates, one weight at a time: it needs room for three such weights in float32.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                weight = layer.get_base_layer().weight
                exact = weight.to(device, torch.float32)
                for name in layer.active_adapters:
                    a, b = (part[name].weight.to(device, torch.float32) for part in (layer.lora_A, layer.lora_B))
                    exact = exact + layer.scaling[name] * (b @ a)
                weight.copy_(exact)
    return model.unload()


def export(model: Any, encoder: Encoder, directory: str, device: Any = "cpu") -> None:
    """Merge the adapter and save everything that vLLM and transformers need to load the policy.

    A model that was loaded from the published key names is saved under them again, because vLLM reads those names.
    """
    merge(model, device).save_pretrained(directory)
    encoder.processor.save_pretrained(directory)
