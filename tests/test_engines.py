"""Engines: what is asked is what is answered, whatever the batch; a bad request harms no other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.fingerprints import identity
from seva_ray.engines import Decoding, FakeEngine, Request, TransformersEngine, VllmEngine
from seva_ray.engines.vllm_models import check_architecture
from seva_ray.private import vllm as private_vllm
from seva_ray.toy.model import EOS, VOCABULARY
from seva_ray.toy.world import make_scene, render
from seva_ray.vlm.encoding import Encoder

QUESTIONS = ("how many objects are there ?", "what color ?", "is there a red ring and a blue ring there ?")


@pytest.fixture(scope="module")
def requests(toy_model) -> list[Request]:
    """Six images, prompts of different lengths."""
    encoder = Encoder(toy_model)
    images = [Image.fromarray(render(make_scene(7, "test", number))) for number in range(6)]
    rows = [encoder.row(QUESTIONS[number % 3], image) for number, image in enumerate(images)]
    assert len({len(row.ids) for row in rows}) == len(QUESTIONS)
    return [Request(prompt_id=f"p{number}", row=row, image_id=f"i{number}") for number, row in enumerate(rows)]


def with_ids(request: Request, ids: list[int]) -> Request:
    return replace(request, row=replace(request.row, ids=ids))


# Configuration


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be at least 1"),
        ({"temperature": -0.1}, "temperature -0.1: must be at least 0"),
        ({"temperature": float("nan")}, "temperature nan: must be at least 0"),
        ({"temperature": float("inf")}, "temperature inf: must be at least 0"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1: must be above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p nan: must be above 0 and at most 1"),
    ],
)
def test_a_decoding_that_cannot_work_is_named(values, line):
    with pytest.raises(ConfigError) as caught:
        Decoding(**values)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("engine", "values"),
    [
        (TransformersEngine, {"batch_size": 0}),
        (VllmEngine, {"max_model_len": 0}),
        (VllmEngine, {"max_num_seqs": -1}),
        (VllmEngine, {"tensor_parallel_size": 0}),
        (VllmEngine, {"cpu_kv_cache_gb": 0}),
        (VllmEngine, {"gpu_memory_utilization": 0.0}),
        (VllmEngine, {"gpu_memory_utilization": 1.5}),
        (FakeEngine, {"num_words": 0}),
        (FakeEngine, {"num_words": 33}),
        (FakeEngine, {"seconds_per_request": -1.0}),
    ],
)
def test_an_engine_that_cannot_work_is_named(engine, values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"^{name} {value}: must be"):
        engine(**values)


def test_the_default_decoding_is_the_papers():
    assert Decoding() == Decoding(max_new_tokens=512, temperature=0.0, top_p=1.0)


def test_how_an_engine_is_run_is_no_part_of_its_identity_but_its_numbers_are():
    assert identity(VllmEngine(tensor_parallel_size=4, max_num_seqs=8)) == identity(VllmEngine())
    assert identity(VllmEngine(dtype="bfloat16")) != identity(VllmEngine())
    assert identity(TransformersEngine(batch_size=1)) == identity(TransformersEngine())
    assert identity(TransformersEngine()) != identity(VllmEngine())


# The fake


def test_the_fake_answers_the_same_alone_and_in_a_batch(requests):
    fake = FakeEngine().load("", Decoding())
    together = fake.generate(requests)
    assert together == [fake.generate([request])[0] for request in requests]
    assert [response.prompt_id for response in together] == [request.prompt_id for request in requests]
    assert len({response.text for response in together}) == len(requests)


def test_the_fake_s_answer_depends_on_every_token_and_every_pixel(requests):
    fake = FakeEngine(num_words=8).load("", Decoding())
    (first,) = fake.generate(requests[:1])
    row = requests[0].row
    pixels = row.features["pixel_values"].copy()
    pixels[0, 2, -1, -1] += 1e-3
    other_pixels = replace(requests[0], row=replace(row, features={"pixel_values": pixels}))
    other_tokens = with_ids(requests[0], [*row.ids[:-1], 7])
    other_place = replace(requests[0], prompt_id="other", image_id="other")
    assert fake.generate([other_pixels])[0].text != first.text
    assert fake.generate([other_tokens])[0].text != first.text
    assert fake.generate([other_place])[0] == replace(first, prompt_id="other")


def test_the_fake_s_answer_has_as_many_words_as_set_but_never_more_than_decoding_allows(requests):
    for num_words, limit, expected in ((4, 512, 4), (32, 512, 32), (8, 3, 3)):
        (response,) = FakeEngine(num_words=num_words).load("", Decoding(max_new_tokens=limit)).generate(requests[:1])
        assert len(response.token_ids) == len(response.text.split()) == expected
        assert response.finish_reason == ("length" if expected < num_words else "stop")


# transformers


@pytest.fixture(scope="module")
def greedy(toy_model):
    return TransformersEngine(batch_size=4).load(toy_model, Decoding(max_new_tokens=12))


@pytest.fixture(scope="module")
def answers(greedy, requests):
    return greedy.generate(requests)


def test_short_answers_are_scored_by_their_first_token_at_the_start_of_the_response(greedy, requests, answers):
    words = {"yes": greedy.encoder.first_token("yes"), "no": greedy.encoder.first_token("no")}
    assert greedy.encoder.tokenizer.convert_ids_to_tokens([*words.values()]) != ["<unk>", "<unk>"]
    found = greedy.generate([replace(request, scored=words) if number % 2 else request
                             for number, request in enumerate(requests)])  # fmt: skip
    assert found == answers, "it changes no answer"
    assert [len(response.first_logps) for response in found] == [0, 2, 0, 2, 0, 2]
    for request, response in list(zip(requests, found, strict=True))[1::2]:
        row = greedy.encoder.finished(request.row)
        pixels = {name: torch.from_numpy(values) for name, values in row.features.items()}
        with torch.no_grad():
            logits = greedy.model(input_ids=torch.tensor([list(row.ids)]), **pixels).logits[0, -1]
        logps = logits.log_softmax(-1)
        assert [item["text"] for item in response.first_logps] == ["yes", "no"]
        expected = [float(logps[token]) for token in words.values()]
        assert [item["logp"] for item in response.first_logps] == pytest.approx(expected, abs=1e-5)
        assert expected[0] != expected[1]


def test_the_batch_does_not_change_greedy_answers(toy_model, requests, answers):
    assert [response.prompt_id for response in answers] == [request.prompt_id for request in requests]
    assert len({tuple(response.token_ids) for response in answers}) > 1, "all answers are equal: nothing is tested"
    for batch_size in (1, 6):
        again = TransformersEngine(batch_size=batch_size).load(toy_model, Decoding(max_new_tokens=12))
        assert again.generate(requests) == answers
    backwards = again.generate(requests[::-1])
    assert backwards[::-1] == answers


def test_no_requests_are_no_answers(greedy):
    assert greedy.generate([]) == []


def test_an_answer_cut_at_the_limit_has_no_end(answers):
    assert {response.finish_reason for response in answers} == {"length"}
    assert all(len(response.token_ids) == 12 for response in answers)
    assert all(EOS not in response.token_ids for response in answers)


def test_an_answer_that_ends_keeps_its_end_token_and_nothing_after_it(toy_model, requests, answers, tmp_path):
    """The model is told that a token which it says is an end, in the generation config where ends are declared."""
    later = {token for answer in answers for token in answer.token_ids[1:] if token != answer.token_ids[0]}
    end = min(token for token in later if any(token not in answer.token_ids for answer in answers))
    directory = change_generation_config(toy_model, tmp_path / "model", eos_token_id=[EOS, end])
    ended = TransformersEngine(batch_size=6).load(directory, Decoding(max_new_tokens=12)).generate(requests)
    for response, before in zip(ended, answers, strict=True):
        if end in before.token_ids:
            assert response.token_ids == before.token_ids[: list(before.token_ids).index(end) + 1]
            assert response.finish_reason == "stop"
        else:
            assert response == before
    assert {response.finish_reason for response in ended} == {"stop", "length"}


def change_generation_config(toy_model: str, directory: Path, **values: object) -> str:
    shutil.copytree(toy_model, directory)
    config = directory / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    return str(directory)


def test_a_model_s_own_habits_of_sampling_do_not_change_greedy_answers(toy_model, requests, answers, tmp_path):
    habits = {"do_sample": True, "temperature": 0.1, "top_k": 5, "repetition_penalty": 3.0}
    directory = change_generation_config(toy_model, tmp_path / "model", **habits)
    assert TransformersEngine().load(directory, Decoding(max_new_tokens=12)).generate(requests) == answers


def test_the_text_is_that_of_the_tokens(toy_model, answers):
    encoder = Encoder(toy_model)
    assert all(response.text == encoder.text(response.token_ids) for response in answers)


def test_sampling_with_a_seed_is_reproducible(toy_model, requests):
    def seeded(seed: int) -> list[list[int]]:
        decoding = Decoding(max_new_tokens=12, temperature=1.0, seed=seed)
        responses = TransformersEngine().load(toy_model, decoding).generate(requests)
        return [list(response.token_ids) for response in responses]

    first = seeded(1)
    assert seeded(1) == first
    assert seeded(2) != first


def sampled(requests, draw: str, temperature: float = 1.0) -> list[Request]:
    return [replace(request, temperature=temperature, draw=draw) for request in requests]


def test_a_request_that_is_sampled_has_a_seed_of_its_own_whatever_the_batch(toy_model, requests, answers):
    engine = TransformersEngine(batch_size=4).load(toy_model, Decoding(max_new_tokens=12))
    first, second = (engine.generate(sampled(requests, draw)) for draw in ("one", "two"))
    assert engine.generate(sampled(requests[::-1], "one"))[::-1] == first
    assert all(one.token_ids != other.token_ids for one, other in zip(first, second, strict=True))
    assert engine.generate(requests) == answers, "the others are decoded as the engine was told"
    (alone,) = engine.generate(sampled(requests[2:3], "one"))
    assert alone == first[2]
    (renamed,) = engine.generate([replace(sampled(requests[2:3], "one")[0], prompt_id="other")])
    assert renamed.token_ids != alone.token_ids, "equal questions do not share their chance"
    other_seed = TransformersEngine().load(toy_model, Decoding(max_new_tokens=12, seed=1))
    assert other_seed.generate(sampled(requests, "one")) != first
    assert engine.generate(sampled(requests, "one", temperature=1e-6)) == answers, "the temperature is the request's"


def test_the_fake_answers_another_draw_with_other_words(requests):
    fake = FakeEngine().load("", Decoding())
    texts = {draw: fake.generate(sampled(requests[:1], draw))[0].text for draw in ("one", "two")}
    assert texts["one"] != texts["two"]
    assert fake.generate(sampled(requests[:1], "one"))[0].text == texts["one"]


def test_sampling_draws_from_all_tokens_as_vllm_does(toy_model, requests):
    """Nothing but temperature and top_p cuts the distribution: transformers' own default would stop at 50 tokens."""
    decoding = Decoding(max_new_tokens=1, temperature=1e6)
    engine = TransformersEngine(batch_size=500).load(toy_model, decoding)
    said = {tuple(response.token_ids) for response in engine.generate(requests[:1] * 500)}
    assert len(said) > 0.9 * len(VOCABULARY) > 50


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_request_that_fails_gives_an_error_and_harms_no_other(toy_model, requests, answers, batch_size):
    image_token = Encoder(toy_model).image_token_id
    two_images = with_ids(requests[2], [*requests[2].row.ids, image_token])
    engine = TransformersEngine(batch_size=batch_size).load(toy_model, Decoding(max_new_tokens=12))
    found = engine.generate([*requests[:2], two_images, *requests[3:]])
    assert found[2].finish_reason == "error"
    assert found[2].error
    assert "\n" not in found[2].error
    assert found[:2] + found[3:] == answers[:2] + answers[3:]


def test_an_error_that_every_request_has_is_the_engine_s_own_and_ends_it(toy_model, requests):
    """It would otherwise make every row of a job a `failed` one, in silence."""
    engine = TransformersEngine(batch_size=4).load(toy_model, Decoding(max_new_tokens=2))
    engine.model.lm_head = torch.nn.Linear(1, 1)
    for some in (requests, requests[:1]):
        with pytest.raises(RuntimeError, match="the engine cannot answer a plain question either: RuntimeError"):
            engine.generate(some)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_memory_that_runs_out_is_no_fault_of_the_request(toy_model, requests, batch_size):
    engine = TransformersEngine(batch_size=batch_size).load(toy_model, Decoding(max_new_tokens=2))

    def take_all_memory(*arguments: object) -> None:
        hook.remove()  # a plain question would be answered
        torch.empty(10**15)

    hook = engine.model.register_forward_pre_hook(take_all_memory)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        engine.generate(requests)


def test_half_precision_pixels_are_not_needed_to_run_a_half_precision_model(toy_model, requests):
    assert requests[0].row.features["pixel_values"].dtype == np.float32
    (response,) = (
        TransformersEngine(dtype="bfloat16").load(toy_model, Decoding(max_new_tokens=2)).generate(requests[:1])
    )
    assert len(response.token_ids) == 2


def test_a_model_that_vllm_has_not_is_one_line_before_an_engine_starts(tmp_path):
    known = private_vllm.architectures()
    assert {"LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"} <= known
    assert not {"VipLlavaForConditionalGeneration", "MllamaForConditionalGeneration"} & known
    config = tmp_path / "config.json"
    for architectures in (["LlavaForConditionalGeneration"], None):
        config.write_text(json.dumps({"architectures": architectures}))
        check_architecture(str(tmp_path))
    config.write_text(json.dumps({"architectures": ["VipLlavaForConditionalGeneration"]}))
    with pytest.raises(
        InputError, match=r"vLLM [\d.]+ has no model for VipLlavaForConditionalGeneration; choose another"
    ):
        check_architecture(str(tmp_path))
