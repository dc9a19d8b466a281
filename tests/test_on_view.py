"""Image terms: pairs are scored on the pixels of the view itself, exactly, and training follows the objective."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seva_ray.augmentations import parse_view
from seva_ray.core.seeds import generator
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Loss, Train, swapped
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.losses import ResponseLogps
from seva_ray.dpo.methods import METHODS
from seva_ray.dpo.objective import objective
from seva_ray.dpo.on_view import ON_VIEW, OnViewCollator, part_on_clean, part_on_view
from seva_ray.dpo.policy import Lora, load_model
from seva_ray.sources import ToyWorld
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import PIXELS
from seva_ray.vlm.views import Viewer
from tests.preference_trainer import four_steps

SEED = 3
VIEWS = ("diffusion-700", "moco", "diffusion-300")
BETA = 0.3


@pytest.fixture(scope="module")
def viewer(toy_model: str) -> Viewer:
    return Viewer(encoder=Encoder(toy_model), image_root=None, max_pixels=10**6, seed=SEED)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """Three pairs with answers of different lengths, of which the second has two rejected ones."""
    random, found = np.random.default_rng(0), []
    for number, prompt in enumerate(list(ToyWorld(num_images=2).prompts())[4:7]):
        answers = [random.integers(5, 60, 3 + number + k).tolist() for k in range(3)]
        rejected = [{"view": VIEWS[number], "text": "r", "token_ids": answers[1]}]
        rejected += [{"view": "pad", "text": "s", "token_ids": answers[2]}] if number == 1 else []
        found.append(
            {"prompt_id": prompt.prompt_id, "question": prompt.question, "image_path": None}
            | {"image_bytes": prompt.image_bytes, "chosen": "c", "chosen_token_ids": answers[0], "rejected": rejected}
            | {"weight": 1.0, "ref_logps": [-9.0] * (1 + len(rejected)), "view_ref_logps": [-8.0 - number, -7.0]}
        )
    return found


def test_the_second_batch_has_the_views_own_pixels_and_the_first_one_is_as_always(viewer: Viewer, pairs):
    batch = PreferenceCollator(viewer=viewer)(pairs) | OnViewCollator(viewer=viewer)(pairs)
    alone = PreferenceCollator(viewer=viewer)(pairs)
    assert part_on_clean(batch).keys() == alone.keys()
    assert all(torch.equal(batch[name], alone[name]) for name in alone)
    for place, (pair, view) in enumerate(zip(pairs, VIEWS, strict=True)):
        random, augmentation = generator(SEED, pair["prompt_id"], view), parse_view(view)
        assert augmentation is not None
        image = augmentation.image(viewer.image(pair), random)
        by_hand = augmentation.pixels(viewer.encoder.row(pair["question"], image).features[PIXELS], random)
        assert np.array_equal(part_on_view(batch)[PIXELS][place].numpy(), by_hand[0])
        assert not torch.equal(part_on_view(batch)[PIXELS][place], batch[PIXELS][place])
    assert part_on_view(batch)["num_tokens"].tolist() == [[len(pair["chosen_token_ids"])] for pair in pairs]
    assert part_on_view(batch)["ref_logps"].tolist() == [[-8.0], [-9.0], [-10.0]]
    assert f"{ON_VIEW}weight" not in batch


def test_a_view_that_is_named_is_shown_for_all_pairs_and_two_responses_if_both_are_read(viewer: Viewer, pairs):
    batch = part_on_view(OnViewCollator(viewer=viewer, image_view="small_crop", num_responses=2)(pairs))
    for place, pair in enumerate(pairs):
        shown = viewer.row(pair, "small_crop").features[PIXELS]
        assert np.array_equal(batch[PIXELS][place].numpy(), shown[0])
    lengths = [[len(pair["chosen_token_ids"]), len(pair["rejected"][0]["token_ids"])] for pair in pairs]
    assert batch["num_tokens"].tolist() == lengths
    assert batch["ref_logps"].tolist() == [pair["view_ref_logps"] for pair in pairs]


def log_probability(model: Any, viewer: Viewer, pair: Mapping[str, Any], view: str, answer: list[int]) -> Tensor:
    """What the model alone says, in its own precision: one response after its whole prompt, without padding."""
    row = viewer.row(pair, view)
    ids = torch.tensor([[*row.ids, *answer]])
    pixels = torch.from_numpy(row.features[PIXELS]).to(model.dtype)
    logits = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
    of_answer = logits[len(row.ids) - 1 : -1].log_softmax(-1)
    return of_answer[torch.arange(len(answer)), torch.tensor(answer)].sum()


@pytest.mark.parametrize("name", ["mdpo", "symmpo"])  # the terms of seva+image are among them
def test_the_gradient_of_the_weights_is_that_of_a_plain_computation_in_float64(name, viewer, pairs, toy_model):
    loss = METHODS[name].loss
    model, exact = load_model(toy_model, "float32"), load_model(toy_model, "float32").double()
    num_on_view = 2 if loss.symmetric_weight else 1
    batch = PreferenceCollator(viewer=viewer)(pairs)
    collate = OnViewCollator(viewer=viewer, image_view=loss.image_view, num_responses=num_on_view)
    on_view = part_on_view(collate(pairs))

    def scored(given: dict[str, Tensor]) -> ResponseLogps:
        logps = response_logps(model, given)
        return ResponseLogps(logps=logps, ref_logps=given["ref_logps"], num_tokens=given["num_tokens"])

    objective(loss, replace(scored(batch), on_view=scored(on_view)), BETA).mean().backward()

    total = torch.zeros((), dtype=torch.float64)
    for pair, view in zip(pairs, VIEWS, strict=True):
        answers = [pair["chosen_token_ids"], *(rejected["token_ids"] for rejected in pair["rejected"])]
        clean = [log_probability(exact, viewer, pair, "clean", answer) for answer in answers]
        other = [log_probability(exact, viewer, pair, loss.image_view or view, answer) for answer in answers[:2]]
        h = [logp - reference for logp, reference in zip(clean, pair["ref_logps"], strict=True)]
        g = [logp - reference for logp, reference in zip(other, pair["view_ref_logps"], strict=True)]

        def log_loss(reward: Tensor) -> Tensor:
            return torch.log1p(torch.exp(-BETA * reward))

        total = total + sum(log_loss(h[0] - item) for item in h[1:]) / (len(h) - 1)
        if name in ("seva+image", "mdpo"):
            total = total + log_loss(h[0] - g[0])
        if name == "symmpo":
            total = total + 0.5 * (log_loss(h[0] - h[1]) + log_loss(g[1] - g[0])) + log_loss(g[1])
            total = total + 1e-4 * ((h[0] - h[1]) - (g[1] - g[0])) ** 2
        if name in ("mdpo", "symmpo"):
            total = total + log_loss(h[0])
    (total / len(pairs)).backward()
    language = [key for key, _ in model.named_parameters() if "language_model" in key and "proj" in key]
    grads = [
        {key: weight.grad for key, weight in each.named_parameters() if key in language} for each in (model, exact)
    ]
    assert len(language) > 6
    for key in language:
        off = (grads[0][key].double() - grads[1][key]).norm() / grads[1][key].norm()
        assert off < 1e-4, key


def chosen_of(pair: Mapping[str, Any]) -> list[int]:
    return pair["chosen_token_ids"]


def test_exchanged_sides_take_their_log_probabilities_on_the_view_with_them(pairs):
    exchanged, chosen = [swapped(pair, seed) for pair in pairs for seed in range(4)], [*map(chosen_of, pairs)]
    turned = [pair for pair in exchanged if chosen_of(pair) not in chosen]
    assert 0 < len(turned) < len(exchanged)
    for pair in turned:
        (before,) = [each for each in pairs if each["prompt_id"] == pair["prompt_id"]]
        assert pair["view_ref_logps"] == before["view_ref_logps"][::-1]
        assert pair["rejected"][0]["token_ids"] == before["chosen_token_ids"]


def test_a_few_steps_of_the_trainer_lower_the_loss_from_where_policy_and_reference_are_equal(
    viewer, pairs, toy_model, tmp_path
):
    model = load_model(toy_model, "float32")
    clean, view = PreferenceCollator(viewer=viewer), OnViewCollator(viewer=viewer, num_responses=2)
    with torch.no_grad():
        references = response_logps(model, clean(pairs)).tolist()
        on_view = response_logps(model, part_on_view(view(pairs))).tolist()
    rows = [
        pair | {"ref_logps": ref[: 1 + len(pair["rejected"])], "view_ref_logps": other}
        for pair, ref, other in zip(pairs, references, on_view, strict=True)
    ]
    config = Train(loss=METHODS["symmpo"].loss, lora=Lora(rank=8, alpha=16))
    _, log = four_steps(
        config, model, viewer.encoder, rows, lambda drawn: clean(drawn) | view(drawn), str(tmp_path), 1e-3
    )
    assert log[0]["loss"] == pytest.approx(4 * np.log(2), abs=1e-4), "DPO, twice 0.5 and two anchors, all at log 2"
    assert log[0]["rewards/image_margins"] == pytest.approx(0, abs=1e-4)
    assert log[3]["loss"] < log[2]["loss"] < log[1]["loss"] <= log[0]["loss"]
    assert log[3]["rewards/image_accuracies"] > 0.5


def test_a_loss_without_image_terms_reads_no_view():
    assert not Loss(anchor_weight=1.0).reads_view
    assert Loss(image_weight=0.5).reads_view
    assert Loss(symmetric_weight=0.5).reads_view
