"""An engine without a model: a response that follows from the request alone, after a set service time.

For scheduling and chaos tests, where what matters is which rows are generated, when and how often.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from seva_ray.engines.base import Decoding, Request
from seva_ray.errors import ConfigError
from seva_ray.records import Response


@dataclass(frozen=True, kw_only=True)
class FakeEngine:
    """Answers each request with words drawn from a hash of its tokens and pixels."""

    seconds_per_request: float = 0.0
    """Service time of one request, s."""
    num_words: int = 4
    """Length of a response, 1 to 32."""

    def __post_init__(self) -> None:
        if not self.seconds_per_request >= 0:
            raise ConfigError(f"seconds_per_request {self.seconds_per_request}: must be at least 0")
        if not 1 <= self.num_words <= 32:
            raise ConfigError(f"num_words {self.num_words}: must be 1 to 32")

    def load(self, directory: str, decoding: Decoding) -> "FakeGenerator":
        return FakeGenerator(self, decoding)


class FakeGenerator:
    def __init__(self, engine: FakeEngine, decoding: Decoding):
        self.engine, self.decoding = engine, decoding

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        time.sleep(self.engine.seconds_per_request * len(requests))
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Response:
        digest = hashlib.sha256(repr(list(request.prompt_ids)).encode() + request.pixels.tobytes()).digest()
        cut = self.engine.num_words > self.decoding.max_new_tokens
        token_ids = list(digest[: self.decoding.max_new_tokens if cut else self.engine.num_words])
        text = " ".join(f"w{token}" for token in token_ids)
        finish_reason = "length" if cut else "stop"
        return Response(prompt_id=request.prompt_id, text=text, token_ids=token_ids, finish_reason=finish_reason)
