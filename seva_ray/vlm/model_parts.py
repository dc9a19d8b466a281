"""The parts of a vision-language model, found by its structure and not by the names that its family gives them."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from seva_ray.core.errors import InputError

ROUTERS = ("gate", "router")
"""How the names of linears end that choose the experts of a token."""


def unwrapped(model: Any) -> Any:
    """Returns the transformers model inside the wrappers of PEFT, DeepSpeed and torch."""
    from transformers import PreTrainedModel

    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def decoder_name(model: Any) -> str:
    """The full name of the language model without its output head, such as `model.language_model`.

    Raises: InputError if the model has no such part.
    """
    whole = unwrapped(model)
    decoder = whole.get_decoder()
    if decoder is whole:
        raise InputError(f"model {whole.name_or_path}: transformers does not say which part is the language model")
    return next(name for name, module in whole.named_modules() if module is decoder)


def language_linears(model: Any) -> dict[str, nn.Linear]:
    """The linears of the language model by their full names, without its output head and the routers of experts."""
    start = f"{decoder_name(model)}."
    return {
        name: module
        for name, module in unwrapped(model).named_modules()
        if name.startswith(start) and isinstance(module, nn.Linear) and not name.endswith(ROUTERS)
    }


def expert_weights(model: Any) -> dict[str, nn.Parameter]:
    """The weights of experts that are no linears, by their full names: transformers keeps all experts of a layer in one
    parameter of three dimensions, which an adapter on linears does not change."""
    start = f"{decoder_name(model)}."
    return {
        f"{name}.{own}": weight
        for name, module in unwrapped(model).named_modules()
        if name.startswith(start) and not isinstance(module, nn.Conv1d)
        for own, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3
    }


def language_weights(model: Any) -> list[nn.Parameter]:
    """The weights of the language model and of its output head, which may share some."""
    whole = unwrapped(model)
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    weights = [*decoder.parameters(), *head.parameters()]
    return list({id(weight): weight for weight in weights}.values())


def image_parts(model: Any) -> Iterator[nn.Module]:
    """The modules that make image features: all that lies beside the language model, at each level above it."""
    above = unwrapped(model)
    head = above.get_output_embeddings()
    for name in decoder_name(model).split("."):
        yield from (part for other, part in above.named_children() if other != name and part is not head)
        above = getattr(above, name)
