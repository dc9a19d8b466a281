"""A checkpoint in LLaVA's own format answers as before, in the transformers format."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

import convert as job
from seva_ray.core.errors import InputError
from seva_ray.core.system_texts import VICUNA_V1
from seva_ray.runtime.cli import run
from seva_ray.vlm.convert import convert
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.llava_format import Checkpoint, write_weights
from seva_ray.vlm.llava_names import port_name
from tests import llava_by_hand
from tests.llava_checkpoints import (
    NUM_TOKENS,
    copied,
    llava_names,
    original,
    write_adapter,
    write_tower,
    write_whole,
)

QUESTION = "What colour is the cat?\nAnswer in one word."


@pytest.fixture(scope="module")
def model() -> Any:
    return original()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` has all weights, `text` no vision tower, `tower` only that; `adapter` was trained from `whole`."""
    folder = tmp_path_factory.mktemp("llava")
    write_whole(folder / "whole", model)
    write_whole(folder / "text", model, with_tower=False)
    write_tower(folder / "tower", model)
    write_adapter(folder / "adapter", model)
    convert(Checkpoint(model=str(folder / "whole"), vision_tower=str(folder / "tower")), str(folder / "made"))
    return folder


def logits(model: Any, tokens: list[int], image_token: int, pixels: torch.Tensor) -> torch.Tensor:
    model.config.image_token_id = model.config.image_token_index = image_token
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), pixel_values=pixels).logits[0]


def test_the_model_computes_what_the_original_computes(folder: Path, model: Any):
    made = LlavaForConditionalGeneration.from_pretrained(str(folder / "made"), dtype="float32").eval()
    encoder = Encoder(str(folder / "made"), VICUNA_V1)
    tokens = llava_by_hand.token_ids(encoder, QUESTION)
    pixels = torch.from_numpy(llava_by_hand.pixels(encoder, Image.new("RGB", (40, 28), (200, 30, 90))))[None]
    image = NUM_TOKENS - 1
    in_original = [image if token == encoder.image_token_id else token for token in tokens]
    assert image not in tokens, "the original has no token for the image, so it borrows its last one"
    ours, theirs = logits(made, tokens, encoder.image_token_id, pixels), logits(model, in_original, image, pixels)
    assert torch.equal(ours[:, :NUM_TOKENS], theirs)
    assert int(ours.argmax(dim=1).max()) < NUM_TOKENS
    assert (ours[:, NUM_TOKENS:] < ours[:, :NUM_TOKENS].max(dim=1, keepdim=True).values).all()


def test_prompts_have_the_tokens_that_llava_makes_with_sentencepiece(folder: Path, tmp_path: Path, model: Any):
    pieces = write_whole(tmp_path / "again", model)
    encoder = Encoder(str(folder / "made"), VICUNA_V1)
    before, after = f"{VICUNA_V1} USER: ", f"\n{QUESTION} ASSISTANT:"
    # LLaVA tokenises the text before the image and the text behind it one by one (tokenizer_image_token).
    assert llava_by_hand.prompt_ids(encoder, QUESTION) == [
        1,
        *pieces.encode(before),
        encoder.image_token_id,
        *pieces.encode(after),
    ]
    assert (encoder.image_token_id, encoder.pad_id) == (NUM_TOKENS, NUM_TOKENS + 1)


def test_the_vision_tower_may_lie_beside_the_checkpoint(folder: Path, tmp_path: Path):
    made = tmp_path / "made"
    convert(Checkpoint(model=str(folder / "text"), vision_tower=str(folder / "tower")), str(made))
    ours, whole = (load_file(place / "model.safetensors") for place in (made, folder / "made"))
    assert ours.keys() == whole.keys()
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.mark.parametrize("base", ["whole", "made"])
def test_an_adapter_is_merged_as_peft_merges_it_into_a_base_of_either_format(
    base: str, folder: Path, tmp_path: Path, model: Any
):
    merged = write_adapter(tmp_path / "adapter", model)
    places = {"model": str(tmp_path / "adapter"), "base": str(folder / base), "vision_tower": str(folder / "tower")}
    convert(Checkpoint(**places), str(tmp_path / "made"))
    weights, before = (load_file(place / "model.safetensors") for place in (tmp_path / "made", folder / "made"))
    changed = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert changed == {
        port_name(name) for name in merged if "q_proj" in name or "down_proj" in name or "mm_projector" in name
    }
    for name, weight in merged.items():
        ported = port_name(name)
        assert ported is not None
        torch.testing.assert_close(weights[ported][: len(weight)], weight, rtol=0, atol=1e-6)


def test_names_of_the_port_are_those_of_transformers_own_script():
    """What convert_llava_weights_to_hf.py of huggingface/transformers at 01080c6 makes of LLaVA's names."""
    script = json.loads((Path(__file__).parent / "published" / "llava_names.json").read_text())["verdicts"]
    assert {name: port_name(name) for name in script} == script


def test_large_weights_are_written_in_several_files_with_an_index(tmp_path: Path):
    weights = {f"w{number}": torch.full((10,), float(number)) for number in range(5)}
    shapes = write_weights(iter(weights.items()), tmp_path, file_bytes=80)
    assert shapes == dict.fromkeys(weights, (10,))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    read = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def another_projector(whole: Path) -> None:
    change(whole / "config.json", mm_projector_type="linear")


def not_llavas(whole: Path) -> None:
    (whole / "config.json").write_text('{"model_type": "llama"}')


def a_file_is_missing(whole: Path) -> None:
    (whole / "pytorch_model-00002-of-00002.bin").unlink()


def a_file_is_cut(whole: Path) -> None:
    file = whole / "pytorch_model-00001-of-00002.bin"
    file.write_bytes(file.read_bytes()[:1000])


def another_model(whole: Path) -> None:
    index = whole / "pytorch_model.bin.index.json"
    index.unlink()
    for file in whole.glob("*.bin"):
        file.unlink()
    torch.save({"transformer.h.0.weight": torch.zeros(1)}, whole / "pytorch_model.bin")


def another_size(whole: Path) -> None:
    change(whole / "config.json", intermediate_size=128)


def no_tokenizer(whole: Path) -> None:
    (whole / "tokenizer.model").unlink()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (another_projector, "mm_projector_type 'linear': only mlp2x_gelu (LLaVA-1.5)"),
        (not_llavas, "its config.json is not in LLaVA's own format (it has no mm_vision_tower)"),
        (a_file_is_missing, "pytorch_model-00002-of-00002.bin is missing"),
        (a_file_is_cut, "pytorch_model-00001-of-00002.bin: cannot be read"),
        (another_model, "weight transformer.h.0.weight is not one of LLaVA-1.5's"),
        (another_size, "mlp.down_proj.weight: it has the shape (32, 64), and the configuration says (32, 128)"),
        (no_tokenizer, "no tokenizer.json or tokenizer.model"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_that_cannot_be_converted_is_one_line_and_leaves_nothing(
    spoil: Callable[[Path], None], line: str, folder: Path, tmp_path: Path
):
    whole = copied(folder / "whole", tmp_path / "whole")
    spoil(whole)
    with pytest.raises(InputError) as caught:
        convert(Checkpoint(model=str(whole), vision_tower=str(folder / "tower")), str(tmp_path / "made"))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "adapter"], "it is an adapter, so name the model that it was trained from with --base"),
        (["--model", "text"], "it has no weights of its vision tower; name CLIP's directory with --vision-tower"),
        (
            ["--model", "nowhere"],
            "no such directory; give a directory, or a repository's name such as llava-hf/llava-1.5-7b-hf",
        ),
        (["--model", "whole", "--to", "tower"], "to tower: exists already; name another directory"),
    ],
    ids=["adapter", "no tower", "nowhere", "exists"],
)
def test_what_is_missing_is_one_line_of_the_job(
    words: list[str], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["convert.py", "--to", "new", *words])
    with pytest.raises(SystemExit):
        run(job.main, job.PRESETS, "test")
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith(line)
    assert not (folder / "new").exists()


def test_the_names_in_the_test_are_all_that_a_checkpoint_holds(model: Any):
    assert len(llava_names(model)) == len(model.state_dict())
