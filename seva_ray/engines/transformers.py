"""The slow reference engine, which calls transformers' own `generate` in small batches."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from seva_ray.core.checks import check_least
from seva_ray.core.errors import is_of_the_machine
from seva_ray.core.fingerprints import execution
from seva_ray.core.records import Response
from seva_ray.engines.base import (
    Decoding,
    Request,
    RequestRefused,
    check_numbers,
    check_request,
    decoding_of,
    refusal,
    trial_request,
)
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import Row, stacked
from seva_ray.vlm.trial import trial_rows

if TYPE_CHECKING:
    from seva_ray.vlm.batch_check import Generated


@dataclass(frozen=True, kw_only=True)
class TransformersEngine:
    """Runs `AutoModelForImageTextToText.generate` with left padding."""

    kind: ClassVar[str] = "TransformersEngine"

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of weights and activations."""
    batch_size: int = execution(16)
    """Number of requests per call of `generate`. It is 1 for a model that a trial shows to answer otherwise in a batch
    than alone."""

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size")

    @property
    def gpus(self) -> int:
        return 1

    def encoder(self, directory: str, system: str, image_options: str = "") -> Encoder:
        return Encoder(directory, system, image_options)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> "TransformersGenerator":
        return TransformersGenerator(self, directory, decoding, image_options)


class TransformersGenerator:
    def __init__(self, engine: TransformersEngine, directory: str, decoding: Decoding, image_options: str = ""):
        self.engine, self.decoding, self.image_options = engine, decoding, image_options
        self.lock, self.counting = threading.Lock(), threading.Lock()
        self.num_unanswered, self.computed_at = 0, time.monotonic()
        self.switch(directory)

    def switch(self, directory: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        self.encoder = Encoder(directory, image_options=self.image_options)
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
        self.batch_size = self.engine.batch_size
        self.batches_are_tried = self.batch_size == 1
        ends = self.model.generation_config.eos_token_id
        self.end_ids = set(ends) if isinstance(ends, list) else {ends}
        check_numbers(self.trial(), directory, self.engine.dtype)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        with self.counting:
            self.num_unanswered += len(requests)
        with self.lock:
            # torch has one generator for a whole batch, so a request with its own seed needs a batch of its own.
            size = 1 if any(request.temperature is not None for request in requests) else self.batch_size
            if size > 1 and len(requests) > 1 and not self.batches_are_tried:
                size = self.batch_size = self.tried_batch_size(requests)
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
            requests = [replace(request, row=self.encoder.finished(request.row)) for request in requests]
            for request in requests:
                self.check(request)
            return self.generate_batch(requests, self.decoding)
        except Exception as error:
            if len(requests) > 1 and not is_of_the_machine(error):
                return [response for request in requests for response in self.attempt([request])]
            reason = str(refusal(error, self.trial))
            return [Response(prompt_id=requests[0].prompt_id, error=reason)]

    def tried_batch_size(self, requests: Sequence[Request]) -> int:
        """The batch size, or 1 if the model answers some row otherwise in a batch than alone. The shortest and the
        longest prompt are tried, and images of different shapes."""
        from seva_ray.vlm.batch_check import off_in_batch

        try:
            rows = [request.row for request in sorted(requests, key=lambda request: len(request.row.ids))]
            rows = [self.encoder.finished(row) for row in (rows[0], rows[-1])]
            off = off_in_batch(self.tried, [*trial_rows(self.encoder), *rows], self.engine.dtype == "float32")
        except Exception as error:
            if is_of_the_machine(error):
                raise
            return self.batch_size  # `attempt` finds the request that is at fault; the next ones are tried
        self.batches_are_tried = True
        if not off:
            return self.batch_size
        name = self.model.config.model_type
        print(
            f"model type {name!r} answers otherwise in a batch than alone ({off:.2g} nats): it is asked one by one",
            file=sys.stderr,
            flush=True,
        )
        return 1

    def tried(self, rows: Sequence[Row]) -> "Generated":
        """Greedy answers to a batch of rows in a trial."""
        import torch

        from seva_ray.vlm.batch_check import NUM_TOKENS, Generated

        with torch.inference_mode():
            found = self.model.generate(
                **self.batch(rows),
                min_new_tokens=NUM_TOKENS,
                max_new_tokens=NUM_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        return Generated(found.sequences[:, -NUM_TOKENS:], torch.stack(found.logits, 1))

    def check(self, request: Request) -> None:
        """Raises: RequestRefused for a request that transformers would accept silently, or that would crash a GPU."""
        check_request(request, self.encoder)
        ids = request.row.ids
        if len(ids) >= self.most_tokens:
            raise RequestRefused(
                f"the prompt with its image has {len(ids)} tokens; with an answer the model reads at most "
                f"{self.most_tokens}"
            )
        for token in ids:
            if token != self.encoder.image_token_id and not 0 <= token < self.vocabulary_size:
                raise RequestRefused(f"token {token} is not one of the model's {self.vocabulary_size}")

    def trial(self) -> Response:
        (response,) = self.generate_batch([trial_request(self.encoder)], replace(self.decoding, max_new_tokens=1))
        return response

    def generate_batch(self, requests: Sequence[Request], decoding: Decoding) -> list[Response]:
        import torch
        from transformers import StoppingCriteriaList, set_seed

        rows = [request.row for request in requests]
        width = max(len(row.ids) for row in rows)
        inputs = self.batch(rows)
        # As in vLLM, the model's generation config is ignored: what the decoding does not ask for is off.
        decoding = decoding_of(decoding, requests[0])
        sampling: dict[str, Any] = {"do_sample": False, "repetition_penalty": decoding.repetition_penalty}
        if decoding.temperature > 0:
            set_seed(decoding.seed)
            sampling |= {"do_sample": True, "top_k": decoding.top_k}
            sampling |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        with torch.inference_mode():
            found = self.model.generate(
                **inputs,
                max_new_tokens=decoding.max_new_tokens,
                stopping_criteria=StoppingCriteriaList([self.goes_on]),
                **sampling,
                return_dict_in_generate=True,
                output_logits=any(request.scored for request in requests),
            )
        made = found.sequences[:, width:].tolist()
        first = found.logits[0].float().log_softmax(-1) if found.logits else [()] * len(requests)
        return [
            replace(
                self.response(request, answer[: self.most_tokens - len(request.row.ids)]),
                first_logps=[{"text": text, "logp": float(logps[token])} for text, token in request.scored.items()],
            )
            for request, answer, logps in zip(requests, made, first, strict=True)
        ]

    def goes_on(self, input_ids: Any, scores: Any, **others: Any) -> Any:
        """A criterion that never stops, which transformers asks after each token."""
        self.computed_at = time.monotonic()
        return input_ids.new_zeros(len(input_ids), dtype=bool)

    def batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The rows as one batch on the model's device, padded on the left."""
        import torch

        width = max(len(row.ids) for row in rows)

        def padded(values: Sequence[Sequence[int]], fill: int) -> Any:
            return torch.tensor([[fill] * (width - len(line)) + list(line) for line in values])

        batch = {
            "input_ids": padded([row.ids for row in rows], self.encoder.pad_id),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            **{name: padded([row.tokens[name].tolist() for row in rows], 0) for name in rows[0].tokens},
        }
        for name, values in stacked([row.features for row in rows], self.encoder.axes).items():
            tensor = torch.from_numpy(values)
            batch[name] = tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def response(self, request: Request, answer: list[int]) -> Response:
        end = next((place for place, token in enumerate(answer) if token in self.end_ids), None)
        token_ids = answer if end is None else answer[: end + 1]
        return Response(
            prompt_id=request.prompt_id,
            text=self.encoder.text(token_ids),
            token_ids=token_ids,
            finish_reason="length" if end is None else "stop",
        )
