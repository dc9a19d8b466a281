"""The internals of transformers."""

import inspect
from typing import Any


def vision_language_model_types() -> frozenset[str]:
    """The `model_type`s that `AutoModelForImageTextToText` can load. In public it says so only by failing to load."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def arguments_of_forward(config: Any) -> set[str]:
    """The names of what a vision-language model's forward pass reads. In public, a model must be built to be asked."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText._model_mapping[type(config)]
    return {*inspect.signature(model.forward).parameters}


def settings_of_every_call(processor: Any) -> dict[str, Any]:
    """The settings that a processor passes to its image processor in every call, whatever the image processor's files
    say. In public they show only in the call."""
    kwargs = getattr(processor, "valid_processor_kwargs", None)
    return dict(getattr(kwargs, "_defaults", {}).get("images_kwargs", {}))


def forget_deepspeed() -> None:
    """Let models load whole again: under ZeRO-3, transformers loads them in parts for as long as it remembers the last
    trainer's configuration. The public object that holds it belongs to the trainer."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def attention_of(model: Any) -> str:
    """The name by which a model computes attention, such as `sdpa`."""
    return str(model.config._attn_implementation)


def use_attention(model: Any, name: str) -> None:
    """Let a model compute attention by the registered function of that name, and leave its parts as they are. The
    public `set_attn_implementation` first checks the name against what the model declares."""
    model.config._attn_implementation = name
