"""The sizes of a vision-language model on which its memory depends, read without loading it."""

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_files import num_weights_in, weight_headers

PHOTOGRAPH = (1280, 960)
"""Width and height of the photograph by which a model's images are measured, in px. Most photographs of the data sets
that models are trained on are smaller."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a vision-language model."""

    num_weights: int
    """Number of all weights."""
    num_language_weights: int
    """Number of weights of the language model with its head, which full training changes."""
    num_expert_weights: int = 0
    """Number of weights of its experts that an adapter changes only if it is told to; see `expert_weights`."""
    expert_width: int = 0
    """Sum of the inputs and outputs of those experts."""
    adapter_width: int
    """Sum of the inputs and outputs of the linears that an adapter changes."""
    num_layers: int
    """Number of layers of the language model. The fields below are the language model's too, but for the last two."""
    hidden_size: int
    num_key_value_heads: int
    head_size: int
    vocabulary_size: int
    num_image_tokens: int
    """Number of tokens of one photograph; see PHOTOGRAPH."""
    image_bytes: int
    """Bytes of what a processor makes of one photograph, in float32."""

    def adapter_weights(self, rank: int, experts: bool = False) -> int:
        """Number of weights of a LoRA adapter. `experts`: it changes those too."""
        return rank * (self.adapter_width + (self.expert_width if experts else 0))

    def cache_bytes(self, bytes_each: int) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * self.num_layers * self.num_key_value_heads * self.head_size * bytes_each


LLAVA_7B = ModelShape(
    num_weights=7_063_427_072,
    num_language_weights=6_738_939_904,
    adapter_width=2_498_560,
    num_layers=32,
    hidden_size=4096,
    num_key_value_heads=32,
    head_size=128,
    vocabulary_size=32064,
    num_image_tokens=576,
    image_bytes=3 * 336 * 336 * 4,
)
LLAVA_13B = ModelShape(
    num_weights=13_350_839_296,
    num_language_weights=13_016_519_680,
    adapter_width=3_911_680,
    num_layers=40,
    hidden_size=5120,
    num_key_value_heads=40,
    head_size=128,
    vocabulary_size=32064,
    num_image_tokens=576,
    image_bytes=3 * 336 * 336 * 4,
)


@lru_cache(maxsize=16)
def shape_of(directory: str, image_options: str = "") -> ModelShape:
    """The sizes of the model in a local directory, which `check_served` accepts, with these settings of its image
    processor."""
    import torch  # takes seconds, which `--help` must not wait for
    from transformers import AutoConfig, AutoModelForImageTextToText

    from seva_ray.vlm.model_parts import expert_weights, language_linears, language_weights

    config, headers = AutoConfig.from_pretrained(directory), weight_headers(directory)
    with torch.device("meta"):  # its structure, without memory for its weights
        model = AutoModelForImageTextToText.from_config(config)
    text = config.get_text_config()
    photograph = Encoder(directory, image_options=image_options).row("", Image.new("RGB", PHOTOGRAPH))
    linears, experts = language_linears(model).values(), expert_weights(model).values()
    return ModelShape(
        num_weights=num_weights_in(headers.values()),
        num_language_weights=sum(weight.numel() for weight in language_weights(model)),
        num_expert_weights=sum(weight.numel() for weight in experts),
        expert_width=sum(len(weight) * (weight.shape[1] + weight.shape[2]) for weight in experts),
        adapter_width=sum(linear.in_features + linear.out_features for linear in linears),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocabulary_size=text.vocab_size,
        num_image_tokens=photograph.num_image_tokens,
        image_bytes=sum(values.nbytes for values in photograph.features.values()),
    )
