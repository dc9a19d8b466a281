"""vLLM in this process, on rows, with its batch kept full from one unit to the next.

The engine runs in this process, which takes half the CPU time of an engine in a child process. It gets the tokens and
the features of the image as they are. So vLLM neither tokenises nor preprocesses, and answers exactly what training
reads.
"""

import itertools
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from seva_ray.core.checks import check_least
from seva_ray.core.children import exit_with_children
from seva_ray.core.errors import ConfigError, line_of
from seva_ray.core.fingerprints import execution
from seva_ray.core.records import Response
from seva_ray.engines.base import (
    Decoding,
    Request,
    RequestRefused,
    check_numbers,
    check_request,
    decoding_of,
    plain_request,
    refusal,
    trial_request,
)
from seva_ray.engines.vllm_models import check_attention
from seva_ray.private import vllm as private_vllm
from seva_ray.vlm.encoding import Encoder

CPU_BLOCK = 32
"""Tokens in a block of the KV cache on a CPU. vLLM's kernels for CPUs want a multiple of 32."""


@dataclass(frozen=True, kw_only=True)
class VllmEngine:
    """One vLLM replica."""

    kind: ClassVar[str] = "VllmEngine"

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Data type of weights and activations. The paper's answers were generated in float16."""
    max_model_len: int = 4096
    """Largest number of tokens of a prompt with its image and its response together."""
    max_num_seqs: int = execution(256)
    """Largest number of sequences that are decoded at once."""
    tensor_parallel_size: int = execution(1)
    """Number of GPUs per replica."""
    gpu_memory_utilization: float = execution(0.9)
    """Share of each GPU's memory for weights and KV cache, above 0 and up to 1."""
    enforce_eager: bool = execution(False)
    """Skip CUDA graphs and compilation, so that the engine starts faster but runs slower."""
    prefix_cache: bool = execution(True)
    """Keep the KV blocks of an image and its question for the next question about the same pixels."""
    own_process: bool = execution(False)
    """Run the engine in its own process, which takes about twice the CPU time per row."""
    cpu_kv_cache_gb: int = execution(1)
    """Size of the KV cache on a machine without a GPU, in GiB."""

    def __post_init__(self) -> None:
        check_least(self, 1, "max_model_len", "max_num_seqs", "tensor_parallel_size", "cpu_kv_cache_gb")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(f"gpu_memory_utilization {self.gpu_memory_utilization}: must be above 0 and at most 1")

    @property
    def gpus(self) -> int:
        return self.tensor_parallel_size

    def encoder(self, directory: str, system: str, image_options: str = "") -> Encoder:
        return Encoder(directory, system, image_options)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> "VllmGenerator":
        return VllmGenerator(self, directory, decoding, image_options)


class VllmGenerator:
    """One thread runs vLLM's steps. Callers prepare their requests in their own threads and wait for the answers."""

    def __init__(self, engine: VllmEngine, directory: str, decoding: Decoding, image_options: str = ""):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if engine.own_process else "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(engine.cpu_kv_cache_gb))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # On a machine with a CUDA toolkit, FlashInfer would compile its sampler for minutes. Greedy decoding never uses
        # it, and without it sampled answers are drawn in the same way on every machine.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        self.engine, self.decoding, self.image_options = engine, decoding, image_options
        self.encoder = Encoder(directory, image_options=image_options)
        self.intake = threading.Lock()
        self.inbox: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        """Rendered prompts with their sampling parameters, or the directory of a model whose weights to load."""
        self.names = itertools.count()
        self.waiting: dict[str, Future[Any]] = {}
        self.error: BaseException | None = None
        self.computed_at = time.monotonic()
        loaded: Future[None] = Future()
        threading.Thread(target=self.run, args=(engine, directory, decoding, loaded), daemon=True).start()
        loaded.result()
        self.check(directory)

    def check(self, directory: str) -> None:
        """Raises: InputError if the model that was loaded from `directory` computes no numbers."""
        request = trial_request(self.encoder)
        response = self.response(request, self.submit(request, replace(self.decoding, max_new_tokens=1)))
        check_numbers(response, directory, self.engine.dtype)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        futures = [self.submit(request) for request in requests]
        return [self.response(request, future) for request, future in zip(requests, futures, strict=True)]

    @property
    def num_unanswered(self) -> int:
        return self.inbox.qsize() + len(self.waiting)

    def submit(self, request: Request, decoding: Decoding | None = None) -> "Future[Any]":
        """Prepare a request in the caller's thread, so that the engine's thread has little to do between two steps.
        `decoding`: the request's own."""
        future: Future[Any] = Future()
        try:
            request = replace(request, row=self.encoder.finished(request.row))
            check_request(request, self.encoder)
            rendered = self.render(request)
        except Exception as error:
            future.set_exception(refused(error) or refusal(error, lambda: self.render(plain_request(self.encoder))))
        else:
            own = decoding or request.temperature is not None or request.scored
            decoding = decoding_of(decoding or self.decoding, request)
            sampling = sampling_of(decoding, request.scored) if own else self.sampling
            self.inbox.put(((rendered, sampling), future))
        if self.error:
            self.fail(self.error)
        return future

    def render(self, request: Request) -> Any:
        """The request in the form that vLLM's engine accepts."""
        row = request.row
        with self.intake:
            return private_vllm.rendered(
                self.llm, row.ids, row.features, row.size, request.image_id, self.encoder.image_token_id
            )

    def switch(self, directory: str) -> None:
        taken: Future[None] = Future()
        self.inbox.put((directory, taken))
        if self.error:
            self.fail(self.error)
        taken.result()
        self.encoder = Encoder(directory, image_options=self.image_options)
        self.check(directory)

    def response(self, request: Request, future: "Future[Any]") -> Response:
        try:
            result = future.result()
        except RequestRefused as error:
            return Response(prompt_id=request.prompt_id, error=str(error))
        output = result.outputs[0]
        return Response(
            prompt_id=request.prompt_id,
            text=self.encoder.text(output.token_ids),
            token_ids=list(output.token_ids),
            finish_reason="stop" if output.finish_reason == "stop" else "length",
            first_logps=[
                {"text": text, "logp": output.logprobs[0][token].logprob} for text, token in request.scored.items()
            ],
            num_cached_tokens=result.num_cached_tokens or 0,
        )

    def run(self, engine: VllmEngine, directory: str, decoding: Decoding, loaded: "Future[None]") -> None:
        """Run the engine's thread. It also loads vLLM, because on a CPU vLLM's threads belong to the loading thread."""
        try:
            self.llm, self.sampling = load(engine, directory, decoding, self.encoder)
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        exit_with_children()
        try:
            while True:
                self.step()
        except BaseException as error:
            dead = RuntimeError(f"vLLM's engine failed: {error!r}")
            dead.__cause__ = error
            self.fail(dead)

    def step(self) -> None:
        """Take in new requests, or wait for one if there is nothing else to do. Then compute one token for all."""
        while not self.inbox.empty() or not self.waiting:
            given, future = self.inbox.get()
            if isinstance(given, str):
                try:
                    assert not self.waiting, "requests are still being answered by the old weights"
                    private_vllm.load_weights(self.llm, given)
                except BaseException as error:
                    future.set_exception(error)
                    raise
                future.set_result(None)
                continue
            name = str(next(self.names))
            try:
                private_vllm.add_request(self.llm, name, *given)
            except Exception as error:
                if (reason := refused(error)) is None:
                    future.set_exception(error)
                    raise
                future.set_exception(reason)
            else:
                self.waiting[name] = future
        for output in private_vllm.step(self.llm):
            self.waiting.pop(output.request_id).set_result(output)
        self.computed_at = time.monotonic()

    def fail(self, error: BaseException) -> None:
        """Give the error to every caller, now and later, because the engine cannot continue."""
        self.error = error
        while not self.inbox.empty():
            self.inbox.get()[1].set_exception(error)
        for name in list(self.waiting):
            self.waiting.pop(name).set_exception(error)


def refused(error: Exception) -> RequestRefused | None:
    """The refusal, if vLLM says that the request is at fault; otherwise None. Faults of vLLM's engine have other error
    classes."""
    return RequestRefused(line_of(error)) if private_vllm.is_refusal(error) else None


def load(engine: VllmEngine, directory: str, decoding: Decoding, encoder: Encoder) -> tuple[Any, Any]:
    """Load the model into vLLM. Return it with the sampling parameters. Raises: InputError if vLLM would answer with
    another attention than the model's."""
    from vllm import LLM

    check_attention(encoder, on_cpu=private_vllm.runs_on_cpu())
    # vLLM makes room for the largest image that the model's image processor makes, so it must know its settings.
    llm = LLM(**options_of(engine, directory, decoding), mm_processor_kwargs=encoder.image_settings or None)
    private_vllm.pass_rows(llm)
    return llm, sampling_of(decoding)


def options_of(engine: VllmEngine, directory: str, decoding: Decoding) -> dict[str, Any]:
    """The arguments of vLLM's `LLM`."""
    on_cpu = private_vllm.runs_on_cpu()
    graphs = not on_cpu and not engine.enforce_eager
    return {
        "model": directory,
        "dtype": engine.dtype,
        "load_format": "safetensors",
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": engine.prefix_cache,
        # Only whole blocks are kept for the next question. On a CPU vLLM has blocks of 128 tokens, more than a small
        # image with its question.
        "block_size": CPU_BLOCK if on_cpu else None,
        # With chunked prefill, a seeded request also draws a token at the end of each chunk. On a GPU vLLM takes that
        # draw back, but on a CPU vLLM crashes.
        "enable_chunked_prefill": False if on_cpu else None,
        "limit_mm_per_prompt": {"image": 1, "video": 0},  # by itself vLLM also tries a video at its start
        "mm_device_do_normalize": False,  # the pixels are normalised already
        "mm_processor_cache_gb": 0,  # rows are prepared already, so there is nothing to cache
        "seed": decoding.seed,
        "disable_log_stats": True,
        # By itself vLLM captures graphs for twice as many sequences as there can be, which takes a minute more.
        "compilation_config": {"max_cudagraph_capture_size": engine.max_num_seqs} if graphs else None,
    }


def sampling_of(decoding: Decoding, scored: Mapping[str, int] = MappingProxyType({})) -> Any:
    """vLLM's parameters. `scored`: see Request. vLLM gives these log-probabilities for every token of the response, as
    the model computes them, before penalties and temperature."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        repetition_penalty=decoding.repetition_penalty,
        seed=decoding.seed if decoding.temperature > 0 else None,
        logprob_token_ids=sorted({*scored.values()}) or None,
        detokenize=False,  # vLLM would drop an incomplete last character; all engines share our decoder
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
