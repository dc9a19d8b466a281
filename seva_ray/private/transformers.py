"""The internals of transformers."""


def vision_language_model_types() -> frozenset[str]:
    """The `model_type`s that `AutoModelForImageTextToText` can load. In public it says so only by failing to load."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def forget_deepspeed() -> None:
    """Let models load whole again: under ZeRO-3, transformers loads them in parts for as long as it remembers the last
    trainer's configuration. The public object that holds it belongs to the trainer."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
