"""Encoding: the tokens and pixels that generation and training share are exactly those of the model's own template."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.system_texts import VICUNA_V1
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_files import check_model
from tests.processors import chatml_style, llama_style

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def directories(toy_model, tmp_path_factory) -> dict[str, str]:
    found = {"toy": toy_model}
    made = {"llama": llama_style(), "legacy": llama_style(legacy=True), "chatml": chatml_style()}
    for name, processor in made.items():
        found[name] = str(tmp_path_factory.mktemp("processors") / name)
        processor.save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def encoders(directories) -> dict[str, Encoder]:
    return {name: Encoder(directory) for name, directory in directories.items()}


@pytest.fixture
def model(toy_model, tmp_path) -> Path:
    """A copy of the toy model to spoil."""
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Tokens


def prompt_ids(encoder: Encoder, question: str) -> list[int]:
    """The prompt's tokens, with one in place of all that stand for its image."""
    ids = list(encoder.row(question, Image.new("RGB", (28, 28))).ids)
    first = ids.index(encoder.image_token_id)
    return [*ids[: first + 1], *(token for token in ids[first + 1 :] if token != encoder.image_token_id)]


CASES = {
    # Whole text of prompt and answer as the model was trained on it, and the answer's tokens by hand.
    "toy": (
        "USER: <image>\nhow many objects are there ? ASSISTANT: three</s>",
        "how many objects are there ?",
        ["three"],
        "three",
    ),
    "llama": (
        "USER: <image>\nWhat colour is the cat? ASSISTANT: The cat is black.</s>",
        "What colour is the cat?",
        ["▁The", "▁cat", "▁is", "▁black", "."],
        "The cat is black.",
    ),
    "legacy": (
        "USER: <image>\nWhat colour is the cat? ASSISTANT: The cat is black.</s>",
        "What colour is the cat?",
        ["▁The", "▁cat", "▁is", "▁black", "."],
        "The cat is black.",
    ),
    "chatml": (
        "<|im_start|>user\n<image>\nWhat colour is the cat?<|im_end|>\n<|im_start|>assistant\nis black.<|im_end|>",
        "What colour is the cat?",
        ["is", "Ġblack", "."],
        "is black.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_prompt_response_and_end_are_the_tokens_of_the_joined_text(name, encoders):
    joined, question, response, text = CASES[name]
    encoder = encoders[name]
    tokenizer = encoder.tokenizer
    response_ids = [*tokenizer.convert_tokens_to_ids(response), tokenizer.eos_token_id]
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in response_ids
    assert prompt_ids(encoder, question) + response_ids == tokenizer(joined)["input_ids"]
    assert encoder.text(response_ids) == text


@pytest.mark.parametrize(("name", "begins"), [("toy", True), ("llama", True), ("legacy", True), ("chatml", False)])
def test_a_prompt_begins_with_bos_once_where_the_tokenizer_has_one(name, begins, encoders):
    encoder = encoders[name]
    ids = prompt_ids(encoder, "What is it?")
    if begins:
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(encoder.tokenizer.bos_token_id) == 1
    assert ids.count(encoder.image_token_id) == 1
    assert ids.count(encoder.tokenizer.eos_token_id) == (0 if begins else 1)  # ChatML also ends the user's turn with it


def test_a_template_that_writes_bos_itself_gives_one_bos(directories, encoders, tmp_path):
    directory = Path(shutil.copytree(directories["llama"], tmp_path / "llama"))
    template = directory / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    ids = prompt_ids(Encoder(str(directory)), "What is it?")
    assert ids.count(ids[0]) == 1
    assert encoders["llama"].tokenizer.decode(ids).startswith("<s>")


def test_a_template_that_makes_far_too_much_of_a_question_is_one_line(directories, encoders, tmp_path):
    directory = Path(shutil.copytree(directories["llama"], tmp_path / "llama"))
    template = directory / "chat_template.jinja"
    whole = template.read_text()
    template.write_text("{{ messages[-1]['content'][1]['text'] * 1000000 }}" + whole)
    with pytest.raises(InputError, match=r"used \(its chat template makes 1,000,0\d\d characters of 1\)$"):
        Encoder(str(directory))
    template.write_text("{{ messages[-1]['content'][1]['text'] * 1000 }}" + whole)
    encoder = Encoder(str(directory))
    with pytest.raises(InputError, match=r"^its chat template makes 500,\d\d\d characters of 500$"):
        encoder.row("why? " * 100, Image.new("RGB", (50, 40)))
    assert len(encoders["llama"].prompt_text("why? " * 100_000)) > 500_000, "a long question is nobody's fault"


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_of_a_row_are_what_the_processor_gives_the_model(name, encoders):
    encoder = encoders[name]
    image = Image.new("RGB", (50, 40))
    theirs = encoder.processor(images=image, text=encoder.prompt_text("What is it?"))["input_ids"][0]
    assert encoder.row("What is it?", image).ids == list(theirs)


@pytest.mark.parametrize(("name", "number"), [("toy", 36), ("llama", 4), ("legacy", 4), ("chatml", 4)])
def test_an_image_takes_as_many_tokens_as_it_has_patches(name, number, encoders):
    row = encoders[name].row("What is it?", Image.new("RGB", (50, 40)))
    assert row.num_image_tokens == list(row.ids).count(encoders[name].image_token_id) == number


@pytest.mark.parametrize("name", ["toy", "llama", "legacy"])
def test_the_system_text_stands_before_the_question_as_in_vicuna_v1(name, directories):
    encoder = Encoder(directories[name], VICUNA_V1)
    assert encoder.prompt_text("Q") == f"{VICUNA_V1} USER: <image>\nQ ASSISTANT:"
    assert prompt_ids(encoder, "Q")[1:] != prompt_ids(Encoder(directories[name]), "Q")[1:]


def test_a_question_cannot_bring_a_second_image(encoders):
    with pytest.raises(InputError, match="holds the image placeholder <image>"):
        prompt_ids(encoders["llama"], "What is <image>?")


def test_text_is_without_special_tokens_and_outer_space(encoders):
    encoder = encoders["llama"]
    ids = encoder.tokenizer.convert_tokens_to_ids(["<s>", "▁", "▁The", "▁cat", "▁", "</s>"])
    assert encoder.text(ids) == "The cat"
    assert encoder.text([]) == ""


def test_a_newline_inside_an_answer_stays(encoders):
    encoder = encoders["chatml"]
    ids = encoder.tokenizer("one\ntwo\n", add_special_tokens=False)["input_ids"]
    assert encoder.text(ids) == "one\ntwo"


# Pixels


def by_hand(square: Image.Image, side: int) -> np.ndarray:
    resized = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    return ((resized - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(70, 41), (41, 70), (28, 28), (20, 28), (300, 7)])
def test_pixels_are_those_of_a_square_of_the_mean_colour_around_the_image(size, encoders):
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = max(size)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = (122, 116, 104)  # CLIP's mean x 255, rounded down as in LLaVA
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = noise
    (ours,) = encoders["llama"].row("What is it?", Image.fromarray(noise)).features["pixel_values"]
    assert ours.dtype == np.float32
    assert ours.shape == (3, 28, 28)
    np.testing.assert_allclose(ours, by_hand(Image.fromarray(canvas), 28), atol=2e-6)


def test_pixels_are_not_what_the_model_s_own_processor_would_crop(encoders):
    """The stock processor cuts the sides off; SeVa pads, so that nothing of the image is lost."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8))
    stock = encoders["llama"].image_processor(images=image, return_tensors="np")["pixel_values"][0]
    assert stock.shape == (3, 28, 28)
    assert np.abs(stock - encoders["llama"].row("What is it?", image).features["pixel_values"]).max() > 0.5


# What is not a model


def remove_directory(model: Path) -> None:
    shutil.rmtree(model)


def remove_config(model: Path) -> None:
    (model / "config.json").unlink()


def break_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "lla')


def list_config(model: Path) -> None:
    (model / "config.json").write_text("[1, 2]")


def binary_config(model: Path) -> None:
    (model / "config.json").write_bytes(b"\xff\xfe\x00")


def untyped_config(model: Path) -> None:
    (model / "config.json").write_text('{"architectures": ["Nothing"]}')


def strange_type(model: Path) -> None:
    change(model / "config.json", model_type=["llava"])


def text_model(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "llama", "hidden_size": 128}')


def own_code(model: Path) -> None:
    code = {"AutoConfig": "configuration_kimi_vl.KimiVLConfig", "AutoModelForCausalLM": "modeling_kimi_vl.KimiVL"}
    change(model / "config.json", model_type="kimi_vl", auto_map=code)


def pickle_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def remove_processor(model: Path) -> None:
    (model / "processor_config.json").unlink()


def test_a_whole_model_passes_the_checks(model):
    check_model(str(model))
    Encoder(str(model))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (remove_directory, "no such directory"),
        (remove_config, "no config.json; it must be a directory in the transformers format"),
        (break_config, "config.json cannot be used (JSONDecodeError: Unterminated string starting at: "),
        (list_config, "config.json holds no JSON object"),
        (binary_config, "config.json cannot be used (UnicodeDecodeError: "),
        (untyped_config, "config.json is not a transformers configuration: it has no model_type"),
        (strange_type, "model type \"['llava']\" is not a vision-language model"),
        (text_model, "model type 'llama' is not a vision-language model"),
        (own_code, "model type 'kimi_vl' comes with code of its own, which is never run; if the same weights are "),
        (pickle_weights, "no .safetensors weights (pickled weights are not loaded)"),
        (remove_processor, "no processor_config.json or preprocessor_config.json"),
    ],
)
def test_what_is_not_a_vision_language_model_is_one_line(spoil, line, model):
    spoil(model)
    with pytest.raises(InputError) as caught:
        check_model(str(model))
    assert str(caught.value).startswith(f"model {model}: {line}")
    assert "\n" not in str(caught.value)


def remove_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def break_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for")


def blind_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")


def break_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


def list_processor(model: Path) -> None:
    (model / "processor_config.json").write_text("[]")


def break_patch_size(model: Path) -> None:
    change(model / "processor_config.json", patch_size="eight")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_template, "it has no chat template"),
        (break_template, "its chat template fails (unexpected"),
        (blind_template, "its chat template does not show the image"),
        (break_tokenizer, ""),
        (list_processor, ""),
        (break_patch_size, ""),
    ],
)
def test_a_broken_processor_is_one_line(spoil, reason, model):
    spoil(model)
    with pytest.raises(InputError) as caught:
        Encoder(str(model))
    assert str(caught.value).startswith(f"model {model}: processor cannot be used ({reason}")
    assert "\n" not in str(caught.value)


def test_a_template_that_refuses_a_system_text_is_one_line(model):
    template = model / "chat_template.jinja"
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refuse + template.read_text())
    Encoder(str(model))
    with pytest.raises(InputError, match="no system role"):
        Encoder(str(model), "A system text.")


def test_code_that_comes_with_a_model_is_never_run_and_never_asked_about(model, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (model / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Processor: pass\n")
    auto_map = {"AutoProcessor": "code.Processor", "AutoImageProcessor": "code.Processor"}
    change(model / "processor_config.json", auto_map=auto_map, processor_class="Processor")

    def answer(question: str) -> str:
        pytest.fail(f"the user was asked: {question}")

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(InputError, match="contains custom code"):
        Encoder(str(model))
    assert not ran.exists()


def test_a_tokenizer_without_a_padding_token_can_fill_up_batches(model):
    change(model / "tokenizer_config.json", pad_token=None)
    encoder = Encoder(str(model))
    assert encoder.tokenizer.pad_token_id is None
    assert encoder.pad_id != encoder.image_token_id
