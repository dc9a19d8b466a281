"""The sizes of a vision-language model on which its memory depends, read without loading it."""

import math
from dataclasses import dataclass

from PIL import Image

from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_files import weight_headers

PHOTOGRAPH = (1280, 960)
"""Width and height of the photograph by which a model's images are measured, in px. Most photographs of the data sets
that models are trained on are smaller."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a vision-language model."""

    num_weights: int
    """Number of all weights."""
    num_layers: int
    """Number of layers of the language model. The fields below are the language model's too, but for the last."""
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    vocabulary_size: int
    num_image_tokens: int
    """Number of tokens of one photograph; see PHOTOGRAPH."""
    image_bytes: int
    """Bytes of what a processor makes of one photograph, in float32."""

    def adapter_weights(self, rank: int) -> int:
        """Number of weights of a LoRA adapter on every linear of the language model."""
        hidden, inner = self.hidden_size, self.num_heads * self.head_size
        keys = self.num_key_value_heads * self.head_size
        attention = 2 * (hidden + inner) + 2 * (hidden + keys)
        return self.num_layers * rank * (attention + 3 * (hidden + self.intermediate_size))

    def language_weights(self) -> int:
        """Number of weights of the language model with its head, which full training changes."""
        hidden, inner = self.hidden_size, self.num_heads * self.head_size
        keys = self.num_key_value_heads * self.head_size
        layer = 2 * hidden * inner + 2 * hidden * keys + 3 * hidden * self.intermediate_size
        return self.num_layers * layer + 2 * self.vocabulary_size * hidden

    def cache_bytes(self, bytes_each: int) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * self.num_layers * self.num_key_value_heads * self.head_size * bytes_each


LLAVA_7B = ModelShape(
    num_weights=7_063_427_072,
    num_layers=32,
    hidden_size=4096,
    intermediate_size=11008,
    num_heads=32,
    num_key_value_heads=32,
    head_size=128,
    vocabulary_size=32064,
    num_image_tokens=576,
    image_bytes=3 * 336 * 336 * 4,
)
LLAVA_13B = ModelShape(
    num_weights=13_350_839_296,
    num_layers=40,
    hidden_size=5120,
    intermediate_size=13824,
    num_heads=40,
    num_key_value_heads=40,
    head_size=128,
    vocabulary_size=32064,
    num_image_tokens=576,
    image_bytes=3 * 336 * 336 * 4,
)


def shape_of(directory: str) -> ModelShape:
    """The sizes of the model in a local directory, which `check_served` accepts."""
    from transformers import AutoConfig  # takes seconds, which `--help` must not wait for

    config, headers = AutoConfig.from_pretrained(directory), weight_headers(directory)
    text = config.get_text_config()
    photograph = Encoder(directory).row("", Image.new("RGB", PHOTOGRAPH))
    return ModelShape(
        num_weights=sum(math.prod(entry["shape"]) for header in headers.values() for entry in header.values()),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_heads=text.num_attention_heads,
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary_size=text.vocab_size,
        num_image_tokens=photograph.num_image_tokens,
        image_bytes=sum(values.nbytes for values in photograph.features.values()),
    )
