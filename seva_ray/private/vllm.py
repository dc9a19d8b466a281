"""vLLM's internals. The engine steps vLLM itself, because vLLM's public `LLM.generate` takes no request while it runs,
and its public `AsyncLLM` runs the engine in another process."""

from collections.abc import Mapping
from typing import Any


def rendered(llm: Any, prompt: Mapping[str, Any]) -> Any:
    """A prompt in the form that `add_request` accepts. `LLM.generate` does this inside, together with the decoding."""
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    renderer = llm.llm_engine.renderer
    (made,) = renderer.render_cmpl([parse_model_prompt(llm.model_config, prompt)], renderer.default_cmpl_tok_params)
    return made


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


def is_refusal(error: Exception) -> bool:
    """Whether the error says that the request is at fault, and not the engine. vLLM documents no classes of errors."""
    from vllm.exceptions import VLLMClientError

    return isinstance(error, VLLMClientError)


def runs_on_cpu() -> bool:
    """Whether vLLM computes on CPUs. Its documentation names no way to ask for the platform that it has chosen."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
