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
"""Largest number of tokens of a prompt with its image and the response: vLLM has a field for it, transformers takes the
toy model's own, and the fake engine has none."""

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
            row=encoder.row(
                "what color is the ring ?" if number % 2 else "how many ?",
                Image.fromarray(render(make_scene(7, "test", number))),
            ),
            image_id=f"i{number}",
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


def with_ids(request: Request, ids: list[int]) -> Request:
    return replace(request, row=replace(request.row, ids=ids))


def with_pixels(request: Request, pixels: np.ndarray) -> Request:
    return replace(request, row=replace(request.row, features={"pixel_values": pixels}), image_id="other pixels")


def of_length(request: Request, num_tokens: int, encoder: Encoder) -> Request:
    """A prompt that has so many tokens with its image."""
    image = Image.new("RGB", (30, 30))
    words = num_tokens - len(encoder.row("", image).ids)
    ids = encoder.row(" ".join(["red"] * words), image).ids
    assert len(ids) == num_tokens
    return with_ids(request, list(ids))


def too_long(request: Request, encoder: Encoder, most: int) -> Request:
    return of_length(request, most + 100, encoder)


def no_room_for_an_answer(request: Request, encoder: Encoder, most: int) -> Request:
    return of_length(request, most, encoder)


def one_image_token_too_many(request: Request, encoder: Encoder, most: int) -> Request:
    return with_ids(request, [*request.row.ids, encoder.image_token_id])


def no_image_token(request: Request, encoder: Encoder, most: int) -> Request:
    return with_ids(request, [token for token in request.row.ids if token != encoder.image_token_id])


def no_token(request: Request, encoder: Encoder, most: int) -> Request:
    return with_ids(request, [])


def unknown_token(request: Request, encoder: Encoder, most: int) -> Request:
    return with_ids(request, [*request.row.ids, 100_000])


def pixels_of_another_shape(request: Request, encoder: Encoder, most: int) -> Request:
    return with_pixels(request, np.zeros((1, 3, 20, 28), np.float32))


def pixels_that_are_no_numbers(request: Request, encoder: Encoder, most: int) -> Request:
    return with_pixels(request, np.full(request.row.features["pixel_values"].shape, None))


def another_feature(request: Request, encoder: Encoder, most: int) -> Request:
    features = {**request.row.features, "image_sizes": np.array([[48, 48]])}
    return replace(request, row=replace(request.row, features=features), image_id="another feature")


def empty_question(request: Request, encoder: Encoder, most: int) -> Request:
    return with_ids(request, list(encoder.row("", Image.new("RGB", (30, 30))).ids))


SPOILT: dict[Callable[[Request, Encoder, int], Request], str] = {
    too_long: "token",
    no_room_for_an_answer: "token",
    one_image_token_too_many: "the prompt holds the image's token 37 times, and must hold it 36 times",
    no_image_token: "the prompt holds the image's token 0 times",
    no_token: "the prompt holds the image's token 0 times",
    unknown_token: "100000",
    pixels_of_another_shape: r"pixel_values of the image: float32 of the shape \(1, 3, 20, 28\)",
    pixels_that_are_no_numbers: "pixel_values of the image: object",
    another_feature: r"the image has the features \['image_sizes', 'pixel_values'\]",
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
    """A row with a place too many would take it of the next row's image, if there are as many places as features."""
    name, ask = engine
    bad = [replace(spoil(requests[2], encoder, MOST_TOKENS[name]), prompt_id="bad") for spoil in SPOILT]
    more, none = (list(SPOILT).index(spoil) for spoil in (one_image_token_too_many, no_image_token))
    assert tokens(ask([bad[more], *requests, bad[none]])[1:-1]) == answers
    found = [response for pair in zip(requests, bad, strict=False) for response in pair]
    assert tokens(ask([*found, *bad])[: 2 * len(requests) : 2]) == answers


def test_an_answer_ends_where_the_model_s_positions_end(engine, encoder, requests):
    name, ask = engine
    if name == "fake":
        return
    (response,) = ask([of_length(requests[0], MOST_TOKENS[name] - 5, encoder)])
    assert (response.finish_reason, len(response.token_ids)) == ("length", 5)
