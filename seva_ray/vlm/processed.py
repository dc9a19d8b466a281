"""What a model's own processor makes of chats about images, to which rows are compared."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seva_ray.vlm.one_image import as_arrays

if TYPE_CHECKING:
    from seva_ray.vlm.encoding import Encoder


def processed(encoder: "Encoder", question: str, image: Image.Image) -> dict[str, np.ndarray]:
    """All that the model's own processor and chat template make of a question about an image, as a batch of one.
    Nothing of the encoding is in it but the choice of Pillow and of the image processor's options."""
    return processed_batch(encoder, [(question, image)])


def lacking(encoder: "Encoder") -> str:
    """The end of a line about a processor that fails: what its files do not say, though its class asks for it."""
    settings = ("patch_size", "vision_feature_select_strategy")
    names = [name for name in settings if getattr(getattr(encoder, "processor", None), name, "") is None]
    return f"; processor_config.json lacks {' and '.join(names)}, as older files do" if names else ""


def processed_batch(encoder: "Encoder", prompts: Sequence[tuple[str, Image.Image]]) -> dict[str, np.ndarray]:
    processor = copy.copy(encoder.processor)
    processor.image_processor = encoder.image_processor
    chats = [encoder.messages(question, image=image) for question, image in prompts]
    settings = encoder.image_settings | dict(encoder.asked) | ({"padding": True} if len(chats) > 1 else {})
    made = as_arrays(
        lambda kind: processor.apply_chat_template(
            chats if len(chats) > 1 else chats[0],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors=kind,
            processor_kwargs=settings,
        )
    )
    return {name: np.asarray(values) for name, values in made.items()}
