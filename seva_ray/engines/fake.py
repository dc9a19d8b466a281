"""An engine without a model: its response follows from the request alone, after a set service time.

It is for scheduling and chaos tests, which check only which rows are generated, when, and how often.
"""

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from seva_ray.core.checks import check_least, check_shares
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.core.records import Response
from seva_ray.engines.base import Decoding, Request
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import PIXELS, Row, with_pixels


@dataclass(frozen=True, kw_only=True)
class FakeEngine:
    """Answers each request with words that follow from a hash of its tokens, its pixels and its draw."""

    kind: ClassVar[str] = "FakeEngine"

    seconds_per_request: float = execution(0.0)
    """Service time of one request, in seconds. Requests are served one after the other."""
    num_words: int = 4
    """Number of words in a response, 1 to 32."""
    failing_share: float = 0.0
    """Share of the requests that end in an error, 0 to 1. The same hash chooses them."""
    journal: str = execution("")
    """A local file that gets the prompt_id of each served request, to count repeated work. Empty: none."""

    def __post_init__(self) -> None:
        check_least(self, 0, "seconds_per_request")
        if not 1 <= self.num_words <= 32:
            raise ConfigError(f"num_words {self.num_words}: must be 1 to 32")
        check_shares(self, "failing_share")

    @property
    def gpus(self) -> int:
        return 0

    def encoder(self, directory: str, system: str, image_options: str = "") -> "FakeEncoder":
        return FakeEncoder(system)

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> "FakeGenerator":
        return FakeGenerator(self, decoding)


class FakeEncoder(Encoder):
    """An encoder without a processor: token ids are the question's bytes, and the feature is the image at 8 x 8 px."""

    image_token_id = -1
    """The fake engine has no image token; -1 is not the id of any token."""
    crops, table = False, None

    def __init__(self, system: str = ""):
        self.system = system
        self.last: tuple[Any, Any] = (None, None)
        """The last image and its pixels: questions about one image share them."""

    def raw(self, question: str, image: Image.Image) -> Row:
        if self.last[0] is not image:
            self.last = image, np.asarray(image.resize((8, 8)), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        pixels = self.last[1]
        ids = list(f"{self.system}\n{question}".encode())
        return Row(ids=ids, num_image_tokens=0, features={PIXELS: pixels}, size=(image.height, image.width))

    def first_token(self, answer: str) -> int:
        return answer.encode()[0]

    def changed(self, row: Row, change: Callable[[np.ndarray], np.ndarray]) -> Row:
        return with_pixels(row, change)


class FakeGenerator:
    def __init__(self, engine: FakeEngine, decoding: Decoding):
        self.engine, self.decoding = engine, decoding
        self.lock, self.counting = threading.Lock(), threading.Lock()
        self.num_unanswered, self.computed_at = 0, time.monotonic()
        self.encoder = FakeEncoder()

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        with self.counting:
            self.num_unanswered += len(requests)
        with self.lock:
            time.sleep(self.engine.seconds_per_request * len(requests))
            self.computed_at = time.monotonic()
        if self.engine.journal:
            with open(self.engine.journal, "ab", buffering=0) as journal:
                lines = "".join(f"{time.time():.3f} {os.getpid()} {request.prompt_id}\n" for request in requests)
                journal.write(lines.encode())  # one write, so that processes do not mix their lines
        with self.counting:
            self.num_unanswered -= len(requests)
        return [self.answer(request) for request in requests]

    def switch(self, directory: str) -> None:
        """Do nothing, because there are no weights."""

    def answer(self, request: Request) -> Response:
        pixels = self.encoder.finished(request.row).features[PIXELS]
        content = repr(list(request.row.ids)).encode() + pixels.tobytes() + request.draw.encode()
        digest = hashlib.sha256(content).digest()
        if int.from_bytes(digest[-4:], "big") < self.engine.failing_share * 2**32:
            return Response(prompt_id=request.prompt_id, error="the fake engine was told to fail")
        cut = self.engine.num_words > self.decoding.max_new_tokens
        token_ids = list(digest[: self.decoding.max_new_tokens if cut else self.engine.num_words])
        text = " ".join(f"w{token}" for token in token_ids)
        finish_reason = "length" if cut else "stop"
        return Response(
            prompt_id=request.prompt_id,
            text=text,
            token_ids=token_ids,
            finish_reason=finish_reason,
            first_logps=[
                {"text": answer, "logp": math.log((1 + digest[token % len(digest)]) / 2**13)}
                for answer, token in request.scored.items()
            ],
        )
