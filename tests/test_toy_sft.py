"""Training the toy base: a few steps only; whether it becomes a good model is measured, not tested here."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seva_ray.core.errors import ConfigError, UserError
from seva_ray.core.seeds import generator
from seva_ray.toy.lessons import LABEL_WORDS, Lessons, accuracy_by_kind, answers, batches_of_like_length, patch_labels
from seva_ray.toy.model import build
from seva_ray.toy.optimizer import Muon, Optimizer, orthogonalised
from seva_ray.toy.packed import normalised
from seva_ray.toy.sft import ToyRecipe, train, train_language, train_vision
from seva_ray.toy.world import Scene, Sign, Thing

SHORT = ToyRecipe(
    num_images=48,
    vision_steps=3,
    vision_batch_size=16,
    sft_steps=4,
    batch_size=4,
    gate_accuracy=0,
    num_gate_images=3,
    extra_steps=2,
    max_extra_rounds=1,
)


def test_training_saves_a_model_and_returns_what_it_did(tmp_path):
    lines: list[str] = []
    done = train(SHORT, tmp_path / "base", lines.append)
    assert (tmp_path / "base" / "config.json").exists()
    assert done["sft_steps"] == 4
    assert 0.9e6 < done["num_parameters"] < 1.1e6
    assert 0 <= done["accuracy"]["exist"] <= 1
    assert any("language step 4/4" in line and "s left" in line for line in lines)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_gives_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(dataclasses.replace(SHORT, seed=seed), tmp_path / name, lambda line: None)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(torch.equal(a[key], c[key]) for key in a if "embed_tokens" in key or "proj.weight" in key)


def test_training_leaves_the_number_of_threads_and_the_random_state_alone(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    tiny = dataclasses.replace(SHORT, vision_steps=0, sft_steps=1, num_gate_images=1)
    train(tiny, tmp_path, lambda line: None, num_threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_a_base_under_the_gate_gets_its_extra_rounds_and_is_then_refused_unsaved(tmp_path):
    lines: list[str] = []
    with pytest.raises(UserError, match=r"after 6 steps.*gate_accuracy"):
        train(dataclasses.replace(SHORT, gate_accuracy=0.99), tmp_path / "base", lines.append)
    assert any("2 more steps" in line for line in lines)
    assert not (tmp_path / "base").exists()


def test_both_stages_lower_the_loss_they_train_on():
    recipe = dataclasses.replace(SHORT, num_images=8, vision_steps=30, vision_batch_size=8, sft_steps=40, batch_size=8)
    lessons, model = Lessons.make(1, "sft", recipe.num_images), build(1)
    before = accuracy_by_kind(model, lessons)
    train_vision(model, lessons, recipe, lambda line: None)
    train_language(model, lessons, recipe, lambda line: None)
    after = accuracy_by_kind(model, lessons)
    assert before["count"] == 0
    assert after["count"] >= 0.4
    assert after["exist"] >= 0.5


def test_patch_labels_are_where_the_scene_has_things_and_words():
    scene = Scene(seed=0, split="sft", index=0, things=(Thing("ring", "blue", 5),), sign=Sign("lake", 2))
    labels = patch_labels(scene).reshape(6, 6, 3)
    shapes, colors, words = LABEL_WORDS
    assert labels[2:4, 4:6, 0].tolist() == [[shapes.index("ring") + 1] * 2] * 2
    assert labels[2:4, 4:6, 1].tolist() == [[colors.index("blue") + 1] * 2] * 2
    assert labels[4:, 1:5, 2].tolist() == [[words.index("lake") + 1] * 4] * 2
    assert [np.count_nonzero(labels[:, :, family]) for family in range(3)] == [4, 4, 8]


def test_batches_hold_rows_of_like_length_and_cover_the_rows():
    lengths = np.arange(640) % 80
    batches = batches_of_like_length(lengths, 16, generator(1, "test"))
    drawn = [next(batches) for _ in range(160)]
    assert all(batch.shape == (16,) for batch in drawn)
    assert np.mean([np.ptp(lengths[batch]) for batch in drawn]) < 12
    assert len(set(np.concatenate(drawn))) > 600


def test_answers_do_not_depend_on_which_other_images_are_asked_about():
    lessons, model = Lessons.make(3, "test", 6), build(2)
    pixels = normalised(lessons.pictures)
    together = answers(model, pixels, lessons.asked)
    alone = [answers(model, pixels[i : i + 1], lessons.asked[i : i + 1])[0] for i in range(6)]
    assert together == alone


@pytest.mark.parametrize("shape", [(3, 128, 128), (2, 256, 128), (2, 128, 256)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_keep_their_directions(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    result = orthogonalised(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3
    assert values.median() > 0.6
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(result.flatten(), (left @ right).flatten(), dim=0) > 0.95


def test_muon_works_on_matrices_of_one_shape_as_on_each_alone():
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
    together = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    for muon in (Muon(together), *(Muon([parameter]) for parameter in alone)):
        muon.step(0.1, half=0)
        muon.step(0.1, half=1)
    for one, other, before in zip(together, alone, start, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one.data, before)


def test_the_optimizer_warms_up_decays_and_solves_a_small_problem():
    torch.manual_seed(0)
    weight, bias = torch.nn.Parameter(torch.zeros(4, 4)), torch.nn.Parameter(torch.zeros(4))
    inputs, target = torch.randn(64, 4), torch.randn(4, 4)
    optimizer = Optimizer(num_steps=200, muon=([weight], 0.3), adamw=[([bias], 0.05)])
    rates = []
    for _ in range(200):
        loss = (inputs @ weight + bias - inputs @ target - 1).square().mean()
        optimizer.step(loss)
        rates.append(optimizer.adamw.param_groups[0]["lr"])
    assert rates[0] < rates[9] == max(rates) == 0.05
    assert rates[-1] < 0.05 * 0.05
    assert loss < 0.05


@pytest.mark.parametrize(
    "wrong", [{"num_images": 0}, {"vision_steps": -1}, {"learning_rate": 0.0}, {"gate_accuracy": 1.0}, {"seed": -1}]
)
def test_a_recipe_that_cannot_work_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ToyRecipe(**wrong)
