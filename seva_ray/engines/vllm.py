"""vLLM in this process, on exact float pixels.

The engine runs in-process: half the CPU of the child-process engine, and a killed actor is restarted by Ray, where
a killed child hangs its parent. It is given the normalised float pixels themselves: an 8-bit round trip would
change the answers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seva_ray.encoding import Encoder
from seva_ray.engines.base import Decoding, Request
from seva_ray.errors import ConfigError
from seva_ray.fingerprints import execution
from seva_ray.records import Response

# The pixels are ready: vLLM's own image processor must only pass them on.
AS_GIVEN = {
    "do_resize": False,
    "do_center_crop": False,
    "do_rescale": False,
    "do_normalize": False,
    "do_convert_rgb": False,
}


@dataclass(frozen=True, kw_only=True)
class VllmEngine:
    """One vLLM replica."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of weights and activations; the paper's answers are float16."""
    max_model_len: int = 4096
    """Longest prompt with image plus response, tokens."""
    max_num_seqs: int = execution(256)
    """Sequences decoded at once."""
    tensor_parallel_size: int = execution(1)
    """GPUs per replica."""
    gpu_memory_utilization: float = execution(0.9)
    """Share of each GPU's memory for weights and KV cache."""
    enforce_eager: bool = execution(False)
    """Skip CUDA graphs and compilation: starts faster, runs slower."""
    cpu_kv_cache_gb: int = execution(1)
    """KV cache where there is no GPU, GiB."""

    def __post_init__(self) -> None:
        for field in ("max_model_len", "max_num_seqs", "tensor_parallel_size", "cpu_kv_cache_gb"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} {getattr(self, field)}: must be at least 1")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization {self.gpu_memory_utilization}: must be above 0 and at most 1")

    def load(self, directory: str, decoding: Decoding) -> "VllmGenerator":
        return VllmGenerator(self, directory, decoding)


class VllmGenerator:
    def __init__(self, engine: VllmEngine, directory: str, decoding: Decoding):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(engine.cpu_kv_cache_gb))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM, SamplingParams

        self.encoder = Encoder(directory)
        self.llm = LLM(
            model=directory,
            dtype=engine.dtype,
            load_format="safetensors",
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            tensor_parallel_size=engine.tensor_parallel_size,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            enforce_eager=engine.enforce_eager,
            limit_mm_per_prompt={"image": 1},
            mm_processor_kwargs=AS_GIVEN,
            seed=decoding.seed,
            disable_log_stats=True,
        )
        self.sampling = SamplingParams(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed if decoding.temperature > 0 else None,
            detokenize=False,  # vLLM would drop an incomplete last character; all engines share one decoder
        )

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        try:
            return self.generate_batch(requests)
        except ValueError as error:  # vLLM refuses a whole batch for one bad request: find it
            if len(requests) == 1:
                return [Response(prompt_id=requests[0].prompt_id, error=str(error).splitlines()[0])]
            return [response for request in requests for response in self.generate([request])]

    def generate_batch(self, requests: Sequence[Request]) -> list[Response]:
        prompts: list[Any] = [
            {
                "prompt_token_ids": list(request.prompt_ids),
                "multi_modal_data": {"image": request.pixels},
                "multi_modal_uuids": {"image": request.pixels_id},
            }
            for request in requests
        ]
        outputs = self.llm.generate(prompts, self.sampling, use_tqdm=False)
        return [
            Response(
                prompt_id=request.prompt_id,
                text=self.encoder.text(output.outputs[0].token_ids),
                token_ids=list(output.outputs[0].token_ids),
                finish_reason="stop" if output.outputs[0].finish_reason == "stop" else "length",
            )
            for request, output in zip(requests, outputs, strict=True)
        ]
