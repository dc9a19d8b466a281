"""The slow reference engine, which calls transformers' own `generate` in small batches."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from seva_ray.core.checks import check_least
from seva_ray.core.errors import is_of_the_machine
from seva_ray.core.fingerprints import execution
from seva_ray.core.records import Response
from seva_ray.engines.base import (
    Decoding,
    Refused,
    Request,
    check_request,
    decoding_of,
    plain_request,
    refusal,
)
from seva_ray.vlm.encoding import Encoder


@dataclass(frozen=True, kw_only=True)
class TransformersEngine:
    """Runs `AutoModelForImageTextToText.generate` with left padding."""

    kind: ClassVar[str] = "TransformersEngine"

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of weights and activations."""
    batch_size: int = execution(16)
    """Number of requests per call of `generate`."""

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size")

    @property
    def gpus(self) -> int:
        return 1

    def encoder(self, directory: str, system: str) -> Encoder:
        return Encoder(directory, system)

    def load(self, directory: str, decoding: Decoding) -> "TransformersGenerator":
        return TransformersGenerator(self, directory, decoding)


class TransformersGenerator:
    def __init__(self, engine: TransformersEngine, directory: str, decoding: Decoding):
        self.engine, self.decoding = engine, decoding
        self.lock, self.counting = threading.Lock(), threading.Lock()
        self.num_unanswered = 0
        self.switch(directory)

    def switch(self, directory: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        self.encoder = Encoder(directory)
        self.model = AutoModelForImageTextToText.from_pretrained(
            directory, dtype=self.engine.dtype, use_safetensors=True
        )
        self.model.eval()
        if torch.cuda.is_available():
            self.model = self.model.cuda()
        text = self.model.config.get_text_config()
        self.most_tokens = int(getattr(text, "max_position_embeddings", None) or sys.maxsize)
        """Number of positions that the model was made for: those of a prompt with its image, and of the response."""
        self.vocabulary_size = self.model.get_input_embeddings().num_embeddings
        ends = self.model.generation_config.eos_token_id
        self.end_ids = set(ends) if isinstance(ends, list) else {ends}

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        # torch has one generator for a whole batch, so a request with its own seed needs a batch of its own.
        size = 1 if any(request.temperature is not None for request in requests) else self.engine.batch_size
        with self.counting:
            self.num_unanswered += len(requests)
        with self.lock:
            responses = [
                response
                for start in range(0, len(requests), size)
                for response in self.attempt(requests[start : start + size])
            ]
        with self.counting:
            self.num_unanswered -= len(requests)
        return responses

    def attempt(self, requests: Sequence[Request]) -> list[Response]:
        """A batch's responses. If the batch fails, each request is tried alone, to find the one that is refused."""
        try:
            for request in requests:
                self.check(request)
            return self.generate_batch(requests, self.decoding)
        except Exception as error:
            if len(requests) > 1 and not is_of_the_machine(error):
                return [response for request in requests for response in self.attempt([request])]
            reason = str(refusal(error, self.trial))
            return [Response(prompt_id=requests[0].prompt_id, error=reason)]

    def check(self, request: Request) -> None:
        """Raises: Refused for a request that transformers would accept silently, or that would make a GPU fail."""
        check_request(request, self.encoder)
        num_tokens = len(self.encoder.expand(request.prompt_ids))
        if num_tokens >= self.most_tokens:
            raise Refused(
                f"the prompt with its image has {num_tokens} tokens; with an answer the model reads at most "
                f"{self.most_tokens}"
            )
        for token in request.prompt_ids:
            if token != self.encoder.image_token_id and not 0 <= token < self.vocabulary_size:
                raise Refused(f"token {token} is not one of the model's {self.vocabulary_size}")

    def trial(self) -> None:
        self.generate_batch([plain_request(self.encoder)], replace(self.decoding, max_new_tokens=1))

    def generate_batch(self, requests: Sequence[Request], decoding: Decoding) -> list[Response]:
        import torch
        from transformers import set_seed

        device = self.model.device
        pad = self.encoder.pad_id
        prompts = [self.encoder.expand(request.prompt_ids) for request in requests]
        width = max(map(len, prompts))
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        pixels = torch.stack([torch.from_numpy(request.pixels) for request in requests]).to(device, self.model.dtype)
        # As in vLLM, the model's generation config is ignored: what the decoding does not ask for is off.
        decoding = decoding_of(decoding, requests[0])
        sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": decoding.repetition_penalty}
        if decoding.temperature > 0:
            set_seed(decoding.seed)
            sampling |= {"do_sample": True, "top_k": decoding.top_k}
            sampling |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        with torch.inference_mode():
            rows = self.model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                pixel_values=pixels,
                max_new_tokens=decoding.max_new_tokens,
                **sampling,
            )[:, width:].tolist()
        return [
            self.response(request, row[: self.most_tokens - len(prompt)])
            for request, prompt, row in zip(requests, prompts, rows, strict=True)
        ]

    def response(self, request: Request, row: list[int]) -> Response:
        end = next((place for place, token in enumerate(row) if token in self.end_ids), None)
        token_ids = row if end is None else row[: end + 1]
        return Response(
            prompt_id=request.prompt_id,
            text=self.encoder.text(token_ids),
            token_ids=token_ids,
            finish_reason="length" if end is None else "stop",
        )
