"""The tiny LLaVA: what is saved, what loads it, and that the packed forward is the ordinary one."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from seva_ray.toy import packed
from seva_ray.toy.model import EOS, IMAGE, VOCABULARY, build, processor, save, tokenizer
from seva_ray.toy.world import CLEAN, make_scene, questions, render


@pytest.fixture(scope="module")
def model():
    """Random weights, scaled so that answers are no near ties and some end early."""
    model = build(seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
        model.lm_head.weight[EOS] *= 6
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy")
    save(model, directory)
    return directory


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(7, "test", index) for index in range(6)]


def chat(question):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def inputs(picture, question):
    ready = processor()
    text = ready.apply_chat_template(chat(question), add_generation_prompt=True)
    return ready(images=Image.fromarray(picture), text=text, return_tensors="pt")


def test_the_saved_model_has_about_a_million_parameters_under_the_published_names(saved):
    with safe_open(saved / "model.safetensors", "pt") as file:
        names = set(file.keys())
        size = sum(file.get_tensor(name).numel() for name in names)
    assert 0.9e6 < size < 1.1e6
    assert {
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    } <= names
    prefixes = (
        "vision_tower.vision_model.",
        "multi_modal_projector.",
        "language_model.model.",
        "language_model.lm_head.",
    )
    assert all(name.startswith(prefixes) for name in names)


def test_a_saved_model_reloads_with_equal_logits(model, saved, scenes):
    again = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).eval()
    batch = inputs(render(scenes[0]), "how many objects are there ?")
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_the_generation_config_ends_at_the_end_token(saved):
    again = AutoModelForImageTextToText.from_pretrained(saved)
    assert again.generation_config.eos_token_id == EOS
    assert AutoConfig.from_pretrained(saved).image_seq_length == 36


def test_the_saved_processor_makes_the_same_tokens_and_pixels(saved, scenes):
    again = AutoProcessor.from_pretrained(saved, backend="pil")
    picture, question = Image.fromarray(render(scenes[1])), "where is the red ring ?"
    text = again.apply_chat_template(chat(question), add_generation_prompt=True)
    ours, theirs = inputs(render(scenes[1]), question), again(images=picture, text=text, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_the_chat_template_renders_the_llava_prompt():
    ready = processor()
    dialog = chat("describe the image .")
    assert (
        ready.apply_chat_template(dialog, add_generation_prompt=True)
        == "USER: <image>\ndescribe the image . ASSISTANT:"
    )
    dialog = [{"role": "system", "content": [{"type": "text", "text": "be kind"}]}, *dialog]
    dialog.append({"role": "assistant", "content": [{"type": "text", "text": "no"}]})
    assert ready.apply_chat_template(dialog) == "be kind USER: <image>\ndescribe the image . ASSISTANT: no"


def test_every_word_of_the_world_is_one_token_and_decoding_joins_by_spaces(scenes):
    words = tokenizer()
    for scene in scenes:
        for question in questions(scene):
            for text in (question.text, question.answer):
                ids = words(text)["input_ids"]
                assert ids[0] == words.bos_token_id
                assert ids[1:] == [VOCABULARY.index(word) for word in text.split()]
                assert words.decode(ids, skip_special_tokens=True) == text


def test_the_processor_gives_the_image_36_tokens_and_the_world_its_pixels(scenes):
    picture = render(scenes[2], CLEAN)
    batch = inputs(picture, "what color is the ring ?")
    assert (batch["input_ids"] == IMAGE).sum() == 36
    torch.testing.assert_close(batch["pixel_values"], packed.normalised(picture[None]), atol=1e-6, rtol=0)


def test_packed_logits_equal_those_of_separate_prompts(model, scenes):
    asked = [questions(scene) for scene in scenes]
    pixels = packed.normalised(np.stack([render(scene) for scene in scenes]))
    rows = [[(packed.question_ids(q.text), packed.answer_ids(q.answer)) for q in of_image] for of_image in asked]
    with torch.inference_mode():
        logits, wanted, weight = packed.answer_logits(model, packed.prefix(model, pixels), packed.pack(rows))
        expected = []
        for scene, of_image in zip(scenes, asked, strict=True):
            for question in of_image:
                batch = inputs(render(scene), question.text)
                answer = torch.tensor([packed.answer_ids(question.answer)])
                ids = torch.cat([batch["input_ids"], answer], 1)
                plain = model(input_ids=ids, pixel_values=batch["pixel_values"]).logits
                expected.append(plain[0, -len(answer[0]) - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-4, rtol=1e-4)
    assert wanted.tolist() == [i for row in rows for _, answer in row for i in answer]
    sizes = torch.tensor([float(len(answer)) for row in rows for _, answer in row for _ in answer])
    torch.testing.assert_close(weight, sizes**-0.5)


def test_greedy_gives_the_tokens_of_transformers_generate(model, scenes):
    pixels = packed.normalised(np.stack([render(scene) for scene in scenes]))
    prompts = [(i, question.text) for i, scene in enumerate(scenes) for question in questions(scene)]
    with torch.inference_mode():
        ours = packed.greedy(model, packed.prefix(model, pixels), prompts, max_new_tokens=12, batch_size=5)
    assert len({len(answer) for answer in ours}) > 2  # answers leave their batch at different tokens
    for (image, question), answer in zip(prompts, ours, strict=True):
        batch = inputs(render(scenes[image]), question)
        theirs = model.generate(**batch, max_new_tokens=12, do_sample=False)[0, batch["input_ids"].shape[1] :]
        assert answer == theirs.tolist()
