"""What an engine is: it turns prepared requests into responses, and knows nothing of prompts, files or the cluster."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from PIL import Image

from seva_ray.core.checks import check_least, check_positive
from seva_ray.core.errors import ConfigError, InputError, is_of_the_machine, line_of
from seva_ray.core.records import Response
from seva_ray.core.seeds import key_of
from seva_ray.vlm.encoding import PLAIN_SIZE, Encoder
from seva_ray.vlm.rows import Row


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a response is decoded. The defaults are the paper's: greedy, at most 512 tokens."""

    kind: ClassVar[str] = "Decoding"

    max_new_tokens: int = 512
    """Largest number of tokens in a response. A response that reaches it is `truncated`."""
    temperature: float = 0.0
    """Sampling temperature (0: greedy decoding)."""
    top_p: float = 1.0
    """Probability mass of nucleus sampling. It is used only if temperature is above 0."""
    top_k: int = 0
    """Number of likeliest tokens to sample from (0: all). It is used only if temperature is above 0."""
    repetition_penalty: float = 1.0
    """Penalty on the scores of tokens that occurred before (1: no penalty)."""
    seed: int = 0
    """Seed of sampling. It is used only if temperature is above 0."""

    def __post_init__(self) -> None:
        check_least(self, 1, "max_new_tokens")
        check_least(self, 0, "temperature", finite=True)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: must be above 0 and at most 1")
        check_least(self, 0, "top_k")
        check_positive(self, "repetition_penalty")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt, ready for the model."""

    prompt_id: str
    row: Row
    """The tokens and the features of the image. The engine finishes the row (`Encoder.finished`): until then a unit's
    pixels take a quarter of the memory."""
    image_id: str
    """An id of the finished row's features. If two ids are equal, so are the features, and an engine can encode the
    image only once."""
    temperature: float | None = None
    """Temperature of this request, which then has a sampling seed of its own. None: the decoding's temperature."""
    scored: Mapping[str, int] = field(default_factory=dict)
    """Short answers and their first tokens. The response has the log-probabilities of these tokens at its start."""
    draw: str = ""
    """Distinguishes several sampled requests for one prompt. Each draw has another seed."""


def decoding_of(decoding: Decoding, request: Request) -> Decoding:
    """How this request is decoded. If it has its own temperature, its seed follows from its prompt_id and draw."""
    if request.temperature is None:
        return decoding
    seed = key_of(decoding.seed, request.prompt_id, request.draw) % 2**32
    return replace(decoding, temperature=request.temperature, seed=seed)


class RequestRefused(Exception):
    """An engine refuses one request. The message is the reason, which becomes the error of the response."""


def check_request(request: Request, encoder: Encoder) -> None:
    """Raises: RequestRefused if the prompt's tokens are not those of one image, or if `encoder` makes no such features.

    Engines do not refuse these by themselves. In a batch, transformers gives the image of a row that has no place for
    it to a row that has two places. vLLM reads a token too many as a word, and features of another shape end its
    engine.
    """
    row = request.row
    count = list(row.ids).count(encoder.image_token_id)
    if count != row.num_image_tokens or not count:
        raise RequestRefused(
            f"the prompt holds the image's token {count} times, and must hold it {row.num_image_tokens} times"
        )
    if {*row.features} != {*encoder.features}:
        raise RequestRefused(
            f"the image has the features {sorted(row.features)}; the model reads {sorted(encoder.features)}"
        )
    for name, values in row.features.items():
        of_model = encoder.features[name]
        if values.dtype.kind != of_model.dtype.kind or not fits(values.shape, of_model.shape, encoder.crops):
            raise RequestRefused(
                f"{name} of the image: {values.dtype} of the shape {values.shape}; the model reads {of_model.dtype} "
                f"of shapes like {of_model.shape}"
            )


def fits(shape: tuple[int, ...], other: tuple[int, ...], same_for_all: bool) -> bool:
    """Whether features of this shape may be of another image for the same model. `same_for_all`: the model's processor
    makes images of one size alone; otherwise only flattened patches have a length in common."""
    if same_for_all:
        return shape == other
    return len(shape) == len(other) and (len(shape) != 2 or shape[1] == other[1])


def plain_request(encoder: Encoder) -> Request:
    """A question about a black image, which every engine that works can answer."""
    row = encoder.row("What is it?", Image.new("RGB", PLAIN_SIZE))
    return Request(prompt_id="", row=row, image_id="plain")


def trial_request(encoder: Encoder) -> Request:
    """A plain request whose response says how likely some token is."""
    return replace(plain_request(encoder), scored={"": 0})


def check_numbers(response: Response, directory: str, dtype: str) -> None:
    """Raises: InputError if the response to a `trial_request` says that the model at `directory` computes NaN. An
    engine would answer every question with the same token then."""
    if any(math.isnan(item["logp"]) for item in response.first_logps):
        reason = "a weight is NaN or infinite, so the model must be made or copied again"
        if dtype == "float16":
            reason += ", or its numbers are too large for float16 and --generate.engine.dtype bfloat16 helps"
        raise InputError(f"model {directory}: computes NaN in {dtype}: {reason}")


def refusal(error: Exception, trial: Callable[[], object]) -> RequestRefused:
    """The refusal of a request that failed with `error` when the engine tried it alone.

    The class of an error does not say whether the request or the engine is at fault. So `trial` does the same with
    `plain_request`. If that succeeds, the request is at fault.

    Raises: the engine's own faults, which must end it: `error` if memory or a device failed; RuntimeError if the trial
    fails too.
    """
    if isinstance(error, RequestRefused):
        return error
    if is_of_the_machine(error):
        raise error
    try:
        trial()
    except Exception as other:
        raise RuntimeError(f"the engine cannot answer a plain question either: {other!r}") from error
    return RequestRefused(
        line_of(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {line_of(error)}"
    )


class Answers(Protocol):
    """What answers requests."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """One response per request, in order. A request that fails gives a response with `error`; others are unharmed.

        Several threads may call this at once, so that an engine with continuous batching is never idle between units.
        """
        ...


class Generator(Answers, Protocol):
    """A loaded model."""

    @property
    def num_unanswered(self) -> int:
        """Number of requests that callers are waiting for."""
        ...

    @property
    def computed_at(self) -> float:
        """When it last computed a token of any request, on the monotonic clock, in s."""
        ...

    def switch(self, directory: str) -> None:
        """Load the weights of another model of the same architecture. No request may be running at that time."""
        ...


class Engine(Protocol):
    """A frozen, keyword-only dataclass. Its fields say how the model is run, and `load` starts it."""

    @property
    def gpus(self) -> int:
        """GPUs that one replica takes, in a cluster that has GPUs."""
        ...

    def encoder(self, directory: str, system: str, image_options: str = "") -> Encoder:
        """The encoder that makes this engine's requests from questions and images. It works in any process."""
        ...

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> Generator:
        """Load the model in this process. `image_options`: those of the encoder that makes its requests."""
        ...
