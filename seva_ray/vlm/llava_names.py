"""Names of weights: those of LLaVA's own checkpoints, and those of the published transformers port, which vLLM reads.

Source of the names: llava/model/llava_arch.py and multimodal_encoder/clip_encoder.py of haotian-liu/LLaVA at c121f04.
"""

import re

PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.mm_projector.0.": "multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "multi_modal_projector.linear_2.",
    # A base may also be a transformers model: as published, or as transformers 5 saves it.
    "model.vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "language_model.": "language_model.",
    "multi_modal_projector.": "multi_modal_projector.",
    "vision_tower.vision_model.": "vision_tower.vision_model.",
    "model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
"""The first prefix that fits is replaced."""
BUFFERS = (".rotary_emb.inv_freq", ".position_ids")
"""Ends of names of what is computed, and not trained."""
LORA = re.compile(r"\.lora_([AB])(?:\.default)?\.weight$")


def port_name(name: str) -> str | None:
    """The port's name of a weight; None for a buffer. Raises: KeyError for a name that is not LLaVA's."""
    if name.endswith(BUFFERS):
        return None
    for prefix, other in PREFIXES.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    raise KeyError(name)


def trained_name(name: str) -> str:
    """LLaVA's name of a weight that was trained beside an adapter, without the prefixes that PEFT and LLaVA add."""
    name = name.removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def lora_name(name: str) -> tuple[str, str]:
    """The port's name of the weight that an adapter's matrix belongs to, and `A` or `B`.

    Raises: KeyError for another name.
    """
    match = LORA.search(name)
    if match is None:
        raise KeyError(name)
    found = port_name(trained_name(name[: match.start()]) + ".weight")
    assert found is not None
    return found, match[1]
