"""What an engine is: prepared requests in, responses out. Engines know nothing of prompts, files or the cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from seva_ray.core.errors import ConfigError
from seva_ray.core.records import Response
from seva_ray.core.seeds import key_of
from seva_ray.vlm.encoding import Encoder


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a response is decoded. The defaults are the paper's: greedy, at most 512 tokens."""

    kind: ClassVar[str] = "Decoding"

    max_new_tokens: int = 512
    """Token limit of a response; one that reaches it is `truncated`."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling's probability mass, where temperature is above 0."""
    top_k: int = 0
    """Likeliest tokens to sample from, where temperature is above 0; 0 for all."""
    repetition_penalty: float = 1.0
    """Divides the scores of tokens that were there already; 1 for none."""
    seed: int = 0
    """Of sampling, where temperature is above 0."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature {self.temperature}: must be at least 0, and finite")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: must be above 0 and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k {self.top_k}: must be at least 0")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(f"repetition_penalty {self.repetition_penalty}: must be above 0, and finite")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt, ready for the model."""

    prompt_id: str
    prompt_ids: Sequence[int]
    """Token ids with one image token; BOS included."""
    pixels: np.ndarray
    """Normalised, float32 (C, H, W)."""
    pixels_id: str
    """Equal only where the pixels are equal: lets an engine encode an image once for all its questions."""
    temperature: float | None = None
    """Instead of the decoding's, for a request that is sampled by a seed of its own; None: as the decoding says."""
    draw: str = ""
    """Tells such requests of one prompt apart: another draw has another seed."""


def decoding_of(decoding: Decoding, request: Request) -> Decoding:
    """How this request is decoded: the seed of one that is sampled follows from its prompt_id and draw."""
    if request.temperature is None:
        return decoding
    seed = key_of(decoding.seed, request.prompt_id, request.draw) % 2**32
    return replace(decoding, temperature=request.temperature, seed=seed)


class Generator(Protocol):
    """A loaded model."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """One response per request, in order. One that fails gives a response with `error`, and harms no other.

        Several threads may call at once: an engine that batches continuously is then never idle between two units.
        """
        ...

    @property
    def num_unanswered(self) -> int:
        """Requests that callers are waiting for."""
        ...

    def switch(self, directory: str) -> None:
        """Take the weights of another model of the same architecture, while no request is being answered."""
        ...


class Engine(Protocol):
    """A frozen, keyword-only dataclass: its fields say how the model is run, `load` runs it."""

    def encoder(self, directory: str, system: str) -> Encoder:
        """What makes this engine's requests from questions and images, in any process."""
        ...

    def load(self, directory: str, decoding: Decoding) -> Generator:
        """Load the model in this process."""
        ...
