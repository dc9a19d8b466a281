"""Model families: those that follow the conventions are served, others are one line before anything is taken."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from safetensors.torch import save_file

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.stages.base_model import check_start
from seva_ray.vlm import families
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import check_served, difference, one_picture
from seva_ray.vlm.levels import drawn_at_random
from seva_ray.vlm.models import model_at
from tests.environment import pythonpath
from tests.processors import chatml_style, llama_style
from tests.tiny_models import FAMILIES, SIZE, save_family, template, tokenizer

ROOT = Path(__file__).parents[1]

SMOLVLM = pytest.mark.skipif(find_spec("num2words") is None, reason="SmolVLM's processor needs num2words")


@pytest.mark.parametrize("name", [pytest.param(name, marks=SMOLVLM if name == "smolvlm" else ()) for name in FAMILIES])
def test_a_family_that_follows_the_conventions_is_served(name, tmp_path):
    check_served(save_family(name, tmp_path / name))


@pytest.fixture
def mllama(tmp_path: Path) -> str:
    """Its language model looks at an image from layers of their own, by a mask as long as the prompt."""
    tokens = tokenizer(bos="<s>", image_token="<|image|>")
    config = tf.MllamaConfig(image_token_index=tokens.convert_tokens_to_ids("<|image|>"))
    processor = tf.MllamaProcessor(
        image_processor=tf.MllamaImageProcessorPil(size=SIZE, max_image_tiles=4),
        tokenizer=tokens,
        chat_template=template("<|image|>"),
    )
    for part in (config, processor):
        part.save_pretrained(tmp_path / "mllama")
    save_file({}, tmp_path / "mllama" / "model.safetensors")
    return str(tmp_path / "mllama")


def test_a_family_that_is_not_served_is_one_line(mllama, tmp_path):
    for check in (check_served, model_at, lambda place: check_start(Store(str(tmp_path)), place)):
        with pytest.raises(InputError) as caught:
            check(mllama)
        assert str(caught.value) == (
            f"model {mllama}: model type 'mllama' cannot be served exactly: for a question about an image of 224 x 224 "
            "pixels what its processor makes of an image depends on the question; families that are served: "
            f"{families.SERVED}"
        )


def no_mask(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    theirs = PROCESSED(encoder, prompts)
    return theirs | {"attention_mask": np.zeros_like(theirs["attention_mask"])}


def another_token(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    theirs = PROCESSED(encoder, prompts)
    return theirs | {"input_ids": np.where(theirs["input_ids"] == theirs["input_ids"][0, 0], 9, theirs["input_ids"])}


def bos_twice(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    theirs = PROCESSED(encoder, prompts)
    return {name: np.pad(theirs[name], [(0, 0), (1, 0)]) for name in ("input_ids", "attention_mask")} | {
        name: values for name, values in theirs.items() if name not in ("input_ids", "attention_mask")
    }


def other_pixels(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    return PROCESSED(encoder, prompts) | {"pixel_values": PROCESSED(encoder, prompts)["pixel_values"] + 1}


def other_pixels_of_several(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    return other_pixels(encoder, prompts) if len(prompts) > 1 else PROCESSED(encoder, prompts)


def one_more_array(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    return PROCESSED(encoder, prompts) | {"image_sizes": np.array([[1, 2]])}


def fewer_pixels(encoder: Encoder, prompts: Any) -> dict[str, np.ndarray]:
    return PROCESSED(encoder, prompts) | {"pixel_values": PROCESSED(encoder, prompts)["pixel_values"][..., 1:]}


PROCESSED = families.processed_batch


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        (no_mask, "its processor hides tokens of a prompt from the model"),
        (another_token, "its processor makes other tokens of a chat than of its text"),
        (bos_twice, "its processor makes 45 tokens of a chat, and 44 of its text"),
        (other_pixels, "its processor makes other pixel_values of a chat than of its text"),
        (fewer_pixels, "its processor makes pixel_values of another shape ((1, 3, 48, 47) and (1, 3, 48, 48))"),
        (one_more_array, "its processor makes other arrays (image_sizes) of a chat than of its text"),
        (
            other_pixels_of_several,
            "other pixel_values of several images than of one after the other",
        ),
    ],
)
def test_what_differs_from_the_model_s_own_processor_is_named(theirs, line, toy_model, monkeypatch):
    monkeypatch.setattr(families, "processed_batch", theirs)
    found = difference(Encoder(toy_model))
    assert found is not None
    assert line in found


def test_frames_of_an_image_that_differ_are_found(tmp_path):
    """Noise that is drawn once for both of them would also give both the same picture."""
    encoder = Encoder(save_family("qwen2_5_vl", tmp_path / "qwen"))
    row = encoder.row("Is it?", drawn_at_random(60, 90))
    assert one_picture(encoder, row)
    pixels = row.features["pixel_values"].copy()
    pixels.reshape(len(pixels), 3, 2, -1)[0, 0, 1, 0] += 1
    assert not one_picture(encoder, replace(row, features={**row.features, "pixel_values": pixels}))


def of_another_model(name: str, directory: Path, **values: Any) -> str:
    """The files of a family, with other values in its configuration."""
    save_family(name, directory)
    config = json.loads((directory / "config.json").read_text())
    vision = values.pop("vision_config", {})
    (directory / "config.json").write_text(
        json.dumps(config | values | {"vision_config": config["vision_config"] | vision})
    )
    return str(directory)


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("qwen2_5_vl", {"vision_config": {"patch_size": 16}}, "patch_size is 14 for its processor, and patch_size 16"),
        (
            "qwen3_vl",
            {"vision_config": {"spatial_merge_size": 1}},
            "merge_size is 2 for its processor, and spatial_merge",
        ),
        (
            "mistral3",
            {"spatial_merge_size": 1},
            "spatial_merge_size is 2 for its processor, and spatial_merge_size 1",
        ),
        ("internvl", {"image_seq_length": 256}, "image_seq_length is 4 for its processor, and image_seq_length 256"),
        (
            "gemma3",
            {"mm_tokens_per_image": 256},
            "image_seq_length is 4 for its processor, and mm_tokens_per_image",
        ),
        ("idefics3", {"image_token_id": 7}, "the image token is 39 in its tokenizer, and 7 in config.json"),
        (
            "llava_interleave",
            {"vision_config": {"image_size": 56}},
            "images of 28 x 28 pixels, and its vision tower reads",
        ),
        (
            "llava_interleave",
            {"vision_feature_select_strategy": "default"},
            "makes 16 tokens of an image, and its vision",
        ),
    ],
)
def test_a_configuration_and_a_processor_of_two_models_are_one_line(name, values, line, tmp_path):
    directory = of_another_model(name, tmp_path / "model", **values)
    with pytest.raises(InputError) as caught:
        check_served(directory)
    assert str(caught.value).startswith(f"model {directory}: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_llava_1_5_is_served_whatever_its_tokenizer(toy_model, tmp_path):
    check_served(toy_model)
    for name, processor in {"a": llama_style(), "legacy": llama_style(legacy=True), "chatml": chatml_style()}.items():
        processor.save_pretrained(tmp_path / name)
        assert difference(Encoder(str(tmp_path / name))) is None
        assert difference(Encoder(str(tmp_path / name), "A system text.")) is None


def test_a_model_that_was_refused_is_looked_at_again(toy_model, tmp_path):
    model = Path(shutil.copytree(toy_model, tmp_path / "model"))
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"'llava' cannot be served exactly: .*it has no chat template"):
        check_served(str(model))
    (model / "chat_template.jinja").write_text(template)
    check_served(str(model))


JOBS = """
import importlib, sys
import ray
from seva_ray.runtime import cli as job
root, model = sys.argv[1:]
for name, words in {
    "full": ["--model", model, "--name", "policy"],
    "generate": ["--model", model],
    "train": ["--model", model],
    "evaluate": ["--start", model, "--policy", "policies/none"],
    "sweep": ["--models", model],
    "plan": ["--model", model, "--num-prompts", "10", "--prompts", "none"],
}.items():
    sys.argv = [name, "toy", "--root", root, *words]
    module = importlib.import_module(name)
    try:
        job.run(module.main, module.PRESETS, "")
    except SystemExit as ended:
        print(name, ended.code, ray.is_initialized(), flush=True)
"""


def test_every_job_refuses_such_a_model_before_ray_starts_and_before_anything_is_made(tmp_path, mllama):
    directory = mllama
    store = Store(str(tmp_path / "runs"))
    for name in ("prompts/toy", "pairs/toy-1/toy/diffusion-300"):
        store.open(name, config={}).finish({})
    before = sorted(Path(store.root).rglob("*"))
    environment = os.environ | {"PYTHONPATH": pythonpath(ROOT / "jobs")}
    command = [sys.executable, "-c", JOBS, store.root, directory]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.stdout.splitlines() == [
        f"{name} 2 False" for name in ("full", "generate", "train", "evaluate", "sweep", "plan")
    ], ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 6
    assert all(f"error: model {directory}: model type 'mllama' cannot be served" in line for line in lines)
    assert sorted(Path(store.root).rglob("*")) == before
