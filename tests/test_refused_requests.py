"""Every engine keeps its promise: a request that it refuses is one response with the reason, and harms no other."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import ray
from PIL import Image

from seva_ray.core.records import Response
from seva_ray.engines import Decoding, FakeEngine, Request, TransformersEngine, VllmEngine
from seva_ray.engines.fake import FakeGenerator
from seva_ray.engines.transformers import TransformersGenerator
from seva_ray.engines.vllm import VllmGenerator
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder

MOST_TOKENS = {"fake": 128, "transformers": 1024, "vllm": 128}
"""Of a prompt with its image and the response: vLLM's is the engine's field, transformers' the toy model's own. The
fake has none."""

DECODING = Decoding(max_new_tokens=12)

Ask = Callable[[Sequence[Request]], list[Response]]


@pytest.fixture(scope="module")
def encoder(toy_model: str) -> Encoder:
    return Encoder(toy_model)


@pytest.fixture(scope="module")
def requests(encoder: Encoder) -> list[Request]:
    """Six images, prompts of two lengths."""
    return [
        Request(
            prompt_id=f"p{number}",
            prompt_ids=encoder.prompt_ids("what color is the ring ?" if number % 2 else "how many ?"),
            pixels=encoder.pixels(Image.fromarray(render(make_scene(7, "test", number)))),
            pixels_id=f"i{number}",
        )
        for number in range(6)
    ]


OWN_PROCESS = pytest.param("vllm in a process of its own", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["fake", "transformers", "vllm", OWN_PROCESS])
def engine(request: pytest.FixtureRequest, ray_cluster: None, toy_model: str) -> Iterator[tuple[str, Ask]]:
    """Each engine, in a worker as in a job, and its name."""
    vllm = VllmEngine(dtype="float32", max_model_len=MOST_TOKENS["vllm"], enforce_eager=True)
    generator, arguments = {
        "fake": (FakeGenerator, [FakeEngine()]),
        "transformers": (TransformersGenerator, [TransformersEngine(), toy_model]),
        "vllm": (VllmGenerator, [vllm, toy_model]),
        str(OWN_PROCESS.values[0]): (VllmGenerator, [replace(vllm, own_process=True), toy_model]),
    }[request.param]
    actor = ray.remote(num_cpus=1)(generator).remote(*arguments, DECODING)  # type: ignore[misc]
    yield request.param.split()[0], lambda requests: ray.get(actor.generate.remote(requests))
    ray.kill(actor)


# What a request may have wrong


def of_length(num_tokens: int, encoder: Encoder) -> list[int]:
    """A prompt that has so many tokens with its image."""
    words = num_tokens - len(encoder.expand(encoder.prompt_ids("")))
    prompt_ids = encoder.prompt_ids(" ".join(["red"] * words))
    assert len(encoder.expand(prompt_ids)) == num_tokens
    return prompt_ids


def too_long(request: Request, encoder: Encoder, most: int) -> Request:
    """As text alone, without its image."""
    prompt_ids = of_length(most + 100, encoder)
    assert len(prompt_ids) > most
    return replace(request, prompt_ids=prompt_ids)


def too_long_with_its_image(request: Request, encoder: Encoder, most: int) -> Request:
    prompt_ids = of_length(most + 10, encoder)
    assert len(prompt_ids) < most
    return replace(request, prompt_ids=prompt_ids)


def no_room_for_an_answer(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=of_length(most, encoder))


def two_image_tokens(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=[*request.prompt_ids, encoder.image_token_id])


def no_image_token(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=[token for token in request.prompt_ids if token != encoder.image_token_id])


def no_token(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=[])


def unknown_token(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=[*request.prompt_ids, 100_000])


def pixels_of_another_shape(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, pixels=np.zeros((3, 20, 28), np.float32), pixels_id="another shape")


def pixels_that_are_no_numbers(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, pixels=np.full(request.pixels.shape, None), pixels_id="no numbers")


def empty_question(request: Request, encoder: Encoder, most: int) -> Request:
    return replace(request, prompt_ids=encoder.prompt_ids(""))


SPOILT: dict[Callable[[Request, Encoder, int], Request], str] = {
    too_long: "token",
    too_long_with_its_image: "token",
    no_room_for_an_answer: "token",
    two_image_tokens: "the prompt holds the image's token 2 times",
    no_image_token: "the prompt holds the image's token 0 times",
    no_token: "the prompt holds the image's token 0 times",
    unknown_token: "100000",
    pixels_of_another_shape: r"the pixels have the shape \(3, 20, 28\)",
    pixels_that_are_no_numbers: "",
}
"""And what the reason says of it."""


def tokens(responses: Sequence[Response]) -> list[list[int]]:
    return [list(response.token_ids) for response in responses]


@pytest.fixture(scope="module")
def answers(engine: tuple[str, Ask], requests: list[Request]) -> list[list[int]]:
    """What each is answered where no other is refused."""
    found = engine[1](requests)
    assert {response.error for response in found} == {None}
    assert len({tuple(ids) for ids in tokens(found)}) > 1, "all answers are equal: nothing is tested"
    return tokens(found)


@pytest.mark.parametrize("spoil", [*SPOILT, empty_question], ids=lambda spoil: spoil.__name__)
def test_a_request_that_is_refused_says_why_and_harms_no_other(spoil, engine, encoder, requests, answers):
    name, ask = engine
    bad = replace(spoil(requests[2], encoder, MOST_TOKENS[name]), prompt_id="bad")
    found = ask([*requests[:3], bad, *requests[3:]])
    assert [response.prompt_id for response in found] == ["p0", "p1", "p2", "bad", "p3", "p4", "p5"]
    assert tokens(found[:3] + found[4:]) == answers
    if name == "fake" or spoil is empty_question:
        assert found[3].error is None
    else:
        assert found[3].finish_reason == "error"
        assert re.fullmatch(f".*{SPOILT[spoil]}.*", found[3].error)
    assert tokens(ask(requests)) == answers, "the engine does not answer what comes later"


def test_several_that_are_refused_at_once_harm_no_other(engine, encoder, requests, answers):
    """A row with two places for an image would take the next row's, were there as many places as images in all."""
    name, ask = engine
    bad = [replace(spoil(requests[2], encoder, MOST_TOKENS[name]), prompt_id="bad") for spoil in SPOILT]
    two, none = (list(SPOILT).index(spoil) for spoil in (two_image_tokens, no_image_token))
    assert tokens(ask([bad[two], *requests, bad[none]])[1:-1]) == answers
    found = [response for pair in zip(requests, bad, strict=False) for response in pair]
    assert tokens(ask([*found, *bad])[: 2 * len(requests) : 2]) == answers


def test_an_answer_ends_where_the_model_s_positions_end(engine, encoder, requests):
    name, ask = engine
    if name == "fake":
        return
    (response,) = ask([replace(requests[0], prompt_ids=of_length(MOST_TOKENS[name] - 5, encoder))])
    assert (response.finish_reason, len(response.token_ids)) == ("length", 5)
