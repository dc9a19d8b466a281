"""Which models vLLM answers as transformers does. What it lacks, it does not always say by itself."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.provenance import versions
from seva_ray.private import vllm as private_vllm
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import types_among

WIDE_SIZE = (448, 112)
"""Width and height of an image that is cut into parts, if any is, in px."""

OTHERWISE = "choose another engine with --generate.engine transformers-engine"


def check_architecture(directory: str) -> None:
    """Raises: InputError if vLLM, where it is installed on this machine, has no model for this one."""
    config = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))
    asked, known = config.get("architectures") or [], private_vllm.architectures()
    if known and asked and not known & {*asked}:
        raise InputError(f"model {directory}: {installed()} has no model for {asked[0]}; {OTHERWISE}")


def check_attention(encoder: Encoder, on_cpu: bool) -> None:
    """Check that vLLM computes the attention of this model's prompts.

    Tokens of the same type as those of the image see each other in both directions. vLLM 0.32 does that for the tokens
    of an image, as in Gemma 3, but not for other tokens, as in PaliGemma, and on a CPU for none. It says nothing then:
    5 to 50 of 100 answers are wrong. What it does where an image becomes several parts of a prompt, as by Gemma 3's pan
    and scan, was not measured.

    Raises: InputError.
    """
    from transformers import AutoConfig  # takes seconds

    row = encoder.row("?", Image.new("RGB", WIDE_SIZE))
    typed = types_among(row.tokens, AutoConfig.from_pretrained(encoder.directory))
    if typed is None:
        return
    of_image, types = np.array(row.ids) == encoder.image_token_id, row.tokens[typed]
    both = types == types[of_image][0]
    if not np.array_equal(both, of_image):
        found = (
            "the tokens of its prompts see each other in both directions, which vLLM does for those of an image alone"
        )
    elif np.count_nonzero(np.diff(of_image.astype(int)) == 1) > 1:
        found = (
            "the tokens of its images see each other in both directions, in several parts of a prompt, which was not "
            "tried in vLLM"
        )
    elif on_cpu:
        found = "the tokens of its images see each other in both directions, which vLLM does not do on a CPU"
    else:
        return
    raise InputError(f"model {encoder.directory}: {found}; {OTHERWISE}")


def installed() -> str:
    """The name and version of the installed vLLM, such as `vLLM 0.32.0`."""
    return f"vLLM {' '.join(version for name, version in versions().items() if name.startswith('vllm'))}"
