"""The second toy base, a tiny Qwen2.5-VL: what is saved, its images of any size, and its training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from seva_ray.core.artifacts import Store
from seva_ray.core.fingerprints import identity
from seva_ray.stages.base_model import check_name, check_starts, is_toy, open_toy, recipe_of, toy_name
from seva_ray.toy import packed, qwen
from seva_ray.toy.lessons import Lessons, labels_of, patch_labels
from seva_ray.toy.model import EOS, IMAGE
from seva_ray.toy.recipe import ToyQwenRecipe, ToyRecipe
from seva_ray.toy.sft import train, train_language, train_vision
from seva_ray.toy.world import Scene, Thing
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import check_served
from tests.test_toy_sft import SHORT

QWEN = recipe_of(SHORT, "toy-qwen")


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights, scaled so that answers are no near ties and some end early."""
    model = qwen.build(seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
        model.lm_head.weight[EOS] *= 6
    return model


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("toy") / "qwen"
    qwen.save(model, directory)
    return str(directory)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons.make(7, "test", 3)


def stretched(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def encoder(saved: str) -> Encoder:
    return Encoder(saved)


def inputs(encoder: Encoder, image: Image.Image, question: str) -> dict[str, torch.Tensor]:
    """What the saved processor makes of a question, by the encoding of all stages."""
    row = encoder.row(question, image)
    made = {"input_ids": torch.tensor([row.ids])}
    made |= {name: torch.from_numpy(values)[None] for name, values in row.tokens.items()}
    return made | {name: torch.from_numpy(values) for name, values in row.features.items()}


def test_a_saved_model_is_served_and_reloads_with_equal_weights(model: Any, saved: str):
    check_served(saved)
    again = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32)
    assert type(again) is type(model)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    assert again.generation_config.eos_token_id == EOS
    names = load_file(Path(saved, "model.safetensors"))
    assert {"visual.patch_embed.proj.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"} <= {*names}


@pytest.mark.parametrize("size", qwen.SIZES_PX)
def test_the_processor_makes_what_training_reads_bit_by_bit(model: Any, encoder: Encoder, lessons: Lessons, size):
    made = inputs(encoder, stretched(lessons.pictures[1], size), "how many objects are there ?")
    assert torch.equal(made["pixel_values"], qwen.patches(lessons.pixels(np.array([1]), size)))
    grid = size[0] // 16, size[1] // 16
    assert made["image_grid_thw"].tolist() == [[1, 2 * grid[0], 2 * grid[1]]]
    opening = [*qwen.OPENING, *[IMAGE] * (grid[0] * grid[1]), *qwen.CLOSING]
    assert made["input_ids"][0].tolist() == opening + packed.question_ids("how many objects are there ?")


def test_an_image_of_any_size_is_bounded_and_keeps_its_sides(encoder: Encoder):
    for size, tokens in {(48, 48): 9, (96, 24): 12, (400, 300): 12, (16, 16): 4}.items():
        assert encoder.row("?", Image.new("RGB", size)).num_image_tokens == tokens, size


@pytest.mark.parametrize("size", [(48, 48), (48, 64)])
def test_packed_logits_equal_those_of_separate_prompts(model: Any, encoder: Encoder, lessons: Lessons, size):
    rows = lessons.rows()
    pixels = lessons.pixels(np.arange(3), size)
    with torch.inference_mode():
        logits, wanted, _ = packed.answer_logits(model, packed.prefix(model, pixels), packed.pack(rows))
        expected = []
        for picture, asked in zip(lessons.pictures, lessons.asked, strict=True):
            for question in asked:
                made = inputs(encoder, stretched(picture, size), question.text)
                answer = torch.tensor([packed.answer_ids(question.answer)])
                made["input_ids"] = torch.cat([made["input_ids"], answer], 1)
                made["mm_token_type_ids"] = torch.nn.functional.pad(made["mm_token_type_ids"], (0, answer.shape[1]))
                expected.append(model(**made).logits[0, -answer.shape[1] - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-4, rtol=1e-4)
    assert wanted.tolist() == [token for row in rows for _, answer in row for token in answer]


def test_greedy_gives_the_tokens_of_transformers_generate(model: Any, encoder: Encoder, lessons: Lessons):
    size = (64, 48)
    prompts = [(i, question.text) for i, asked in enumerate(lessons.asked) for question in asked][::3]
    with torch.inference_mode():
        before = packed.prefix(model, lessons.pixels(np.arange(3), size))
        ours = packed.greedy(model, before, prompts, max_new_tokens=12, batch_size=5)
    assert len({len(answer) for answer in ours}) > 1, "answers leave their batch at different tokens"
    for (image, question), answer in zip(prompts, ours, strict=True):
        made = inputs(encoder, stretched(lessons.pictures[image], size), question)
        theirs = model.generate(**made, max_new_tokens=12, do_sample=False)[0, made["input_ids"].shape[1] :]
        assert answer == theirs.tolist()


# Training


def test_a_few_steps_lower_the_loss_and_the_first_ones_train_the_tower_alone():
    recipe = replace(QWEN, num_images=8, vision_steps=4, vision_batch_size=8, sft_steps=12, batch_size=8)
    lessons, model = Lessons.make(1, "sft", recipe.num_images), qwen.build(1)

    def loss() -> float:
        with torch.no_grad():
            before = packed.prefix(model, lessons.pixels(np.arange(8)))
            logits, wanted, weight = packed.answer_logits(model, before, packed.pack(lessons.rows()))
        return float((cross_entropy(logits, wanted, reduction="none") * weight).sum() / weight.sum())

    start, at_first = {name: weight.clone() for name, weight in model.state_dict().items()}, loss()
    train_vision(model, lessons, recipe, lambda line: None)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed == {name for name in start if ".visual." in name or "embed_tokens" in name}
    train_language(model, lessons, recipe, lambda line: None)
    assert loss() < 0.7 * at_first


def test_training_saves_a_qwen(tmp_path: Path):
    done = train(QWEN, tmp_path / "base", lambda line: None)
    assert 0.9e6 < done["num_parameters"] < 1.4e6
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "base").config.model_type == "qwen2_5_vl"


def test_the_labels_of_a_token_are_those_of_the_patch_at_its_middle():
    scene = Scene(seed=0, split="sft", index=0, things=(Thing("ring", "blue", 5),), sign=None)
    labels = patch_labels(scene)[None]
    assert np.array_equal(labels_of(labels, (6, 6)), labels)
    assert labels_of(labels, (3, 3))[0, :, 0].nonzero()[0].tolist() == [5]
    assert labels_of(labels, (3, 4))[0, :, 0].nonzero()[0].tolist() == [7]
    assert labels_of(labels, (4, 3))[0, :, 0].nonzero()[0].tolist() == [5, 8]


@pytest.mark.slow
def test_a_base_that_is_trained_as_the_demo_trains_it_answers_well(tmp_path: Path):
    accuracy = train(ToyQwenRecipe(), tmp_path / "base")["accuracy"]
    assert accuracy["exist"] > 0.75
    assert min(accuracy.values()) > 0.5, accuracy


# Its name


def test_the_name_of_a_toy_base_says_its_family_and_its_seed(tmp_path: Path):
    recipe = ToyRecipe(seed=1, sft_steps=9)
    names = {"toy": "toy-1", "toy-3": "toy-3", "toy-qwen": "toy-qwen-1", "toy-qwen-3": "toy-qwen-3"}
    for model, name in names.items():
        assert is_toy(model)
        made = recipe_of(recipe, model)
        assert (toy_name(made), made.sft_steps) == (name, 9)
        assert open_toy(Store(str(tmp_path)), made).name == f"models/{name}"
    assert not any(map(is_toy, ("toys", "toy-qwen-", "toy-llava", "path/to/toy")))
    assert identity(recipe_of(recipe, "toy")) == identity(recipe), "the first base keeps its recipe"
    assert identity(recipe_of(recipe, "toy-qwen"))["kind"] == "ToyQwenRecipe"
    check_starts(["toy-1", "toy-qwen-1"], recipe)
    check_name("toy-qwen", "toy-qwen", recipe)
