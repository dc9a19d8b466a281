"""vLLM's internals. The engine steps vLLM itself, because vLLM's public `LLM.generate` takes no request while it runs,
and its public `AsyncLLM` runs the engine in another process."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np


def pass_rows(llm: Any) -> None:
    """Let `rendered` hand on what a model's processor has made outside of vLLM. vLLM documents a way for embeddings of
    an image only, and for images that it then preprocesses itself."""
    from vllm.multimodal.processing.context import InputProcessingContext

    class Passing(InputProcessingContext):
        """Stands in for the model's processor: when vLLM calls it, it returns the features that exist already."""

        features: ClassVar[Mapping[str, np.ndarray] | None] = None

        def call_hf_processor(self, hf_processor: Any, data: Any, kwargs: Any = MappingProxyType({})) -> Any:
            import torch
            from transformers.feature_extraction_utils import BatchFeature

            if self.features is None:
                return super().call_hf_processor(hf_processor, data, kwargs)
            # Some of vLLM's models change what they get in place, and other rows share these arrays.
            tensors = {name: torch.tensor(values) for name, values in self.features.items()}
            # InternVL's code in vLLM takes the tokens of each image out of the answer, and then does not use them.
            return BatchFeature(self._postprocess_output(tensors | {"input_ids": torch.zeros(1, 1, dtype=torch.int)}))

    info = llm.llm_engine.renderer.get_mm_processor().info
    info.ctx = Passing(info.ctx.model_config, info.ctx.tokenizer)


def rendered(
    llm: Any,
    ids: Sequence[int],
    features: Mapping[str, np.ndarray],
    size: tuple[int, int],
    image_id: str,
    image_token_id: int,
) -> Any:
    """The parts of a row in the form that `add_request` accepts, after `pass_rows`. `LLM.generate` makes it of text and
    an image, with tokens and pixels of its own. One thread at a time may call this."""
    from vllm.inputs.engine import mm_input
    from vllm.multimodal.inputs import MultiModalKwargsItems

    processor = llm.llm_engine.renderer.get_mm_processor()
    passing = type(processor.info.ctx)
    image = np.broadcast_to(np.zeros((), np.float32), (3, *size))  # takes no memory, and is not read
    passing.features = features
    try:
        made = processor._apply_hf_processor_main(processor.info.parse_mm_data({"image": image}), {})
    finally:
        passing.features = None
    fields = MultiModalKwargsItems.from_hf_inputs(made, processor._get_mm_fields_config(made, {}))
    return mm_input(list(ids), fields, {"image": [image_id]}, {"image": [places(ids, image_token_id)]})


def places(ids: Sequence[int], image_token_id: int) -> Any:
    """The places in a prompt at which the features of its image go. Tokens between them, such as the names of tiles,
    stay words."""
    import torch
    from vllm.multimodal.inputs import PlaceholderRange

    there = torch.tensor(list(ids)) == image_token_id
    first, last = (int(there.nonzero()[end].item()) for end in (0, -1))
    inside = there[first : last + 1]
    return PlaceholderRange(offset=first, length=len(inside), is_embed=None if inside.all() else inside)


def add_request(llm: Any, name: str, prompt: Any, sampling: Any) -> None:
    """Let the next steps answer a rendered prompt too. `LLM.generate` does this only before its first step."""
    llm.llm_engine.add_request(name, prompt, sampling)


def step(llm: Any) -> list[Any]:
    """Compute one token for each request. Return the outputs of the requests that are finished by it. `LLM.generate`
    returns only when all of its requests are finished."""
    return [output for output in llm.llm_engine.step() if output.finished]


def load_weights(llm: Any, directory: str) -> None:
    """Load other weights of the same architecture, and clear the caches of prefixes and images that the old weights
    computed. The public way to change the model is to start another engine, which takes a minute."""
    llm.collective_rpc("reload_weights", kwargs={"weights_path": directory})
    if not llm.reset_prefix_cache():  # it clears nothing while any request holds a part of the cache
        raise RuntimeError("vLLM could not clear its prefix cache, which holds what the old weights computed")
    llm.llm_engine.reset_encoder_cache()


def architectures() -> frozenset[str]:
    """The architectures that vLLM has a model for; empty where vLLM is not installed. In public it says so only after
    its import, which takes ten seconds; so its list is read as text."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return frozenset()
    registry = Path(found.origin).parent / "model_executor" / "models" / "registry.py"
    now, _, _ = registry.read_text(encoding="utf-8").partition("_PREVIOUSLY_SUPPORTED_MODELS")
    return frozenset(re.findall(r'^    "(\w+)": ', now, re.MULTILINE))


def is_refusal(error: Exception) -> bool:
    """Whether the error says that the request is at fault, and not the engine. vLLM documents no classes of errors."""
    from vllm.exceptions import VLLMClientError

    return isinstance(error, VLLMClientError)


def runs_on_cpu() -> bool:
    """Whether vLLM computes on CPUs. Its documentation names no way to ask for the platform that it has chosen."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
