"""A model that answers otherwise in a batch than alone is found out, and asked one by one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seva_ray.engines import Decoding, Request, TransformersEngine
from seva_ray.engines.base import plain_request
from seva_ray.vlm.batch_check import LIKELIEST, NUM_TOKENS, Generated, off_in_batch
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import Row
from tests.every_model import save_every
from tests.family_pictures import picture

VOCABULARY = 80
ROWS = [Row(ids=[number], num_image_tokens=0) for number in range(3)]


def made_up(changed: dict[tuple[int, int, int], float], other_token: bool = False, copies: float = 0.0) -> Any:
    """A model whose logits are random ones of each row. In a batch of different rows, `changed` is added to the logits
    at (row, place, rank of the token); `other_token`: it chooses another token at the first place. `copies`: what it
    adds to the likeliest token of a row in a batch of equal ones."""

    def generate(rows: Sequence[Row]) -> Generated:
        logits = torch.stack([logits_of(row.ids[0]) for row in rows])
        ranks, tokens = logits.argsort(-1, descending=True), logits.argmax(-1)
        if len({row.ids[0] for row in rows}) > 1:
            for (row, place, rank), value in changed.items():
                logits[row, place, ranks[row, place, rank]] += value
            tokens[:, 0] += other_token
        elif len(rows) > 1:
            logits[0, 0, ranks[0, 0, 0]] += copies
        return Generated(tokens, logits)

    return generate


def logits_of(number: int) -> torch.Tensor:
    return torch.randn(NUM_TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(number))


def test_rounding_is_no_difference_and_a_change_of_any_row_at_any_place_is_one():
    assert off_in_batch(made_up({}), ROWS, exact=True) == 0
    assert off_in_batch(made_up({(1, 1, 1): 1e-4}), ROWS, exact=True) == 0
    for row in range(len(ROWS)):
        for place in range(NUM_TOKENS):
            found = off_in_batch(made_up({(row, place, 1): 0.1}), ROWS, exact=True)
            logits = logits_of(row)[place]
            token = logits.argsort(descending=True)[1]
            more = logits.clone()
            more[token] += 0.1
            likeliest = logits.topk(LIKELIEST).indices
            off = (more.log_softmax(-1) - logits.log_softmax(-1))[likeliest]
            assert found == pytest.approx(float(off.square().mean().sqrt()), rel=1e-4)


def test_an_unlikely_token_and_what_follows_another_token_say_nothing():
    assert off_in_batch(made_up({(0, 0, VOCABULARY - 1): 0.001}), ROWS, exact=True) == 0
    assert off_in_batch(made_up({(0, 1, 0): 5.0}, other_token=True), ROWS, exact=True) == 0
    assert off_in_batch(made_up({(0, 0, 0): 5.0}, other_token=True), ROWS, exact=True) > 0


def test_a_model_may_differ_as_much_as_a_row_in_a_batch_of_copies_and_in_half_precision_a_little_more():
    assert off_in_batch(made_up({(1, 0, 0): 0.1}), ROWS, exact=False) == 0
    assert off_in_batch(made_up({(1, 0, 0): 3.0}), ROWS, exact=False) > 0.1
    for exact in (False, True):
        assert off_in_batch(made_up({(1, 0, 0): 3.0}, copies=3.0), ROWS, exact=exact) == 0


# The engine


def requests_of(encoder: Encoder, number: int = 4) -> list[Request]:
    rows = [encoder.row("What is it?" + " And why?" * (seed % 3), picture(seed)) for seed in range(number)]
    return [Request(prompt_id=str(seed), row=row, image_id=str(seed)) for seed, row in enumerate(rows)]


def leak(projector: Any, arguments: Any, features: torch.Tensor) -> torch.Tensor:
    """The images of a batch see each other."""
    return features + 0.3 * features.mean(0, keepdim=True)


def answers(engine: Any, requests: Sequence[Request]) -> list[list[int]]:
    return [list(response.token_ids) for response in engine.generate(requests)]


def test_a_model_whose_images_see_each_other_is_asked_one_by_one_and_the_line_says_so(toy_model, capsys):
    decoding = Decoding(max_new_tokens=6)
    alone, engine = (TransformersEngine(batch_size=size).load(toy_model, decoding) for size in (1, 4))
    requests = requests_of(engine.encoder)
    usual = answers(engine, requests)
    assert (engine.batch_size, answers(alone, requests)) == (4, usual)
    for each in (alone, engine):
        each.model.model.multi_modal_projector.register_forward_hook(leak)
    expected = answers(alone, requests)
    assert answers(engine, requests) != expected, "without the trial it answers otherwise"
    engine.batches_are_tried = False
    capsys.readouterr()
    assert answers(engine, requests) == expected
    assert engine.batch_size == 1
    line = capsys.readouterr().err
    assert line.startswith("model type 'llava' answers otherwise in a batch than alone (")
    assert line.count("\n") == 1
    engine.switch(toy_model)
    assert (answers(engine, requests), engine.batch_size) == (usual, 4)
    assert capsys.readouterr().err.count("otherwise") == 0


def test_one_request_and_bad_ones_do_not_decide(toy_model):
    engine = TransformersEngine(batch_size=4).load(toy_model, Decoding(max_new_tokens=2))
    good, bad = plain_request(engine.encoder), plain_request(engine.encoder)
    bad = replace(bad, row=replace(bad.row, features={"pixel_values": bad.row.features["pixel_values"][..., :9]}))
    engine.generate([good])
    assert not engine.batches_are_tried
    first, second = engine.generate([good, bad])
    assert (first.error, second.error is None) == (None, False)
    assert not engine.batches_are_tried
    engine.generate([good, good])
    assert engine.batches_are_tried


@pytest.mark.parametrize("name", ["hunyuan_vl", pytest.param("minimax_m3_vl", marks=pytest.mark.slow)])
def test_a_family_that_answers_otherwise_in_a_batch_gives_the_answers_of_one_by_one(name: str, tmp_path: Path):
    place, decoding = save_every(name, tmp_path), Decoding(max_new_tokens=6)
    engine = TransformersEngine(batch_size=4).load(place, decoding)
    requests = requests_of(engine.encoder)
    found = answers(engine, requests)
    assert engine.batch_size == 1
    assert found == answers(TransformersEngine(batch_size=1).load(place, decoding), requests)
