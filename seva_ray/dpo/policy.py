"""The policy: the starting model with a LoRA adapter on its language model, and its export.

DPO's reference is the starting model without the adapter. Vision tower, projector and output head do not change.
"""

import fcntl
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from seva_ray.core.checks import check_least
from seva_ray.core.errors import InputError
from seva_ray.vlm.model_files import lay_out_as

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The LoRA adapter. The defaults are the paper's."""

    kind: ClassVar[str] = "Lora"

    rank: int = 1024
    """Rank of each update."""
    alpha: int = 2048
    """Scale of each update, which is multiplied by alpha / rank."""
    experts: bool = False
    """Also change every expert of a mixture of experts, each by an update of this rank; routers stay as they are."""

    def __post_init__(self) -> None:
        check_least(self, 1, "rank", "alpha")

    def peft(self, model: Any) -> "LoraConfig":
        """The adapter on all linears of this model's language model, in PEFT's terms. Raises: InputError if it has no
        experts to change."""
        from peft import LoraConfig

        from seva_ray.vlm.model_parts import decoder_name, expert_weights, language_linears

        experts = list(expert_weights(model)) if self.experts else None
        if experts == []:
            raise InputError(f"train.lora.experts: model {model.name_or_path} has no experts")
        kinds = "|".join(dict.fromkeys(name.rpartition(".")[2] for name in language_linears(model)))
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            bias="none",
            # A pattern for full names: a plain name such as q_proj would also match layers of the vision tower.
            target_modules=rf"{re.escape(decoder_name(model))}\..*\.({kinds})",
            target_parameters=experts,
            task_type="CAUSAL_LM",
        )


def load_model(directory: str, dtype: str) -> Any:
    """Load the vision-language model of a directory, from safetensors and without remote code. The dtype `auto` is the
    one in which it is stored."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(directory, dtype=dtype, use_safetensors=True)


def load_onto(device: str, directory: str, dtype: str) -> Any:
    """The same as `load_model`, on a device such as `cuda:0`. The processes of a machine load one after the other, so
    that its memory holds the weights once, and not once for each GPU: 14 GB for LLaVA-7B."""
    if device == "cpu":
        return load_model(directory, dtype)
    with open(Path(tempfile.gettempdir(), f"seva-load-{os.getuid()}.lock"), "w", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return load_model(directory, dtype).to(device)


def freeze_all_but_language(model: Any, exact: bool = False) -> None:
    """Full training changes only the language model and its head; the image features stay the same. `exact`: hold what
    is trained in float32, as DeepSpeed does by itself. In bfloat16, small updates and sums of gradients are lost."""
    from seva_ray.vlm.model_parts import language_weights

    model.requires_grad_(False)
    for weight in language_weights(model):
        weight.requires_grad_(True)
        if exact:
            weight.data = weight.data.float()


def load_policy(directory: str, adapter: str, dtype: str = "auto") -> Any:
    """Load the starting model with a saved adapter, in CPU memory. `auto` is the dtype in which the model is stored."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(directory, dtype), adapter, torch_device="cpu")


def without_image_gradients(model: Any) -> None:
    """Compute image features without gradients. Nothing that makes them is trained, but under gradient checkpointing
    PEFT makes the output of every embedding require gradients, also that of the vision tower."""
    import torch

    from seva_ray.vlm.model_parts import image_parts

    for part in image_parts(model):
        part.forward = torch.no_grad()(part.forward)


def merge(model: Any, device: Any = "cpu") -> Any:
    """The starting model with the adapter's updates added to its weights, which keep their own data type.

    Each sum is computed in float32 and rounded once. In bfloat16 the rounding would be about as large as the update.
    `device` computes the updates, one weight at a time: it needs room for three such weights in float32.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                experts = layer.num_experts if isinstance(layer, ParamWrapper) else 0
                weight = layer.get_param() if experts else layer.get_base_layer().weight
                exact = weight.to(device, torch.float32)
                for name in layer.active_adapters:
                    a, b = (part[name].weight.to(device, torch.float32) for part in (layer.lora_A, layer.lora_B))
                    if experts:  # (experts, rank, inputs) and (experts, outputs, rank), as PEFT lays them out
                        a = a.reshape(experts, -1, a.shape[1])
                        b = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
                    change = layer.scaling[name] * (b @ a)
                    exact = exact + (change.mT if getattr(layer.get_base_layer(), "is_transposed", False) else change)
                weight.copy_(exact)
    return model.unload()


def export(model: Any, start: str, directory: str, device: Any = "cpu") -> None:
    """Merge the adapter and save everything that vLLM and transformers need to load the policy. `start`: the local
    directory of the starting model.

    A model that was loaded from the published key names is saved under them again, because vLLM reads those names.
    """
    merge(model, device).save_pretrained(directory)
    lay_out_as(start, directory)
    copy_settings(start, directory)


SETTINGS = (".json", ".jinja", ".model", ".txt")
"""Suffixes of the files of a tokenizer, a processor, and of how to generate."""


def is_of_weights(name: str) -> bool:
    """Whether a file is saved with a model's weights."""
    return name == "config.json" or name.endswith((".safetensors", ".index.json"))


def copy_settings(start: str, directory: str) -> None:
    """Copy all settings of the starting model that training does not change as they are: those of its tokenizer, its
    processor, and its generation. To load and save them would write what this version of transformers makes of them,
    and leave out files that only other programs read."""
    templates = "additional_chat_templates"  # transformers looks here for templates that have a name
    for file in [*Path(start).iterdir(), *Path(start, templates).glob("*.jinja")]:
        if file.suffix in SETTINGS and not is_of_weights(file.name):
            target = Path(directory, file.relative_to(start))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
