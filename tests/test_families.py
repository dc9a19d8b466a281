"""Model families: what is not served exactly is refused in one line, before anything is taken."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.stages.base_model import check_start
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import check_served, difference
from seva_ray.vlm.models import model_at
from tests.processors import chatml_style, llama_style
from tests.tiny_models import save_family

ROOT = Path(__file__).parents[1]

REFUSED = {
    "qwen2_vl": ("qwen2_vl", "its processor makes 92 tokens, and the encoding 32"),
    "qwen2_5_vl": ("qwen2_5_vl", "its processor makes 92 tokens, and the encoding 32"),
    "qwen3_vl": ("qwen3_vl", "its processor makes 77 tokens, and the encoding 32"),
    "qwen3_vl_moe": ("qwen3_vl_moe", "its processor makes 77 tokens, and the encoding 32"),
    "llava_next": ("llava_next", "its processor makes image_sizes, which the encoding does not"),
    "llava_onevision": ("llava_onevision", "its processor makes image_sizes and batch_num_images, which"),
    "llava_interleave": ("llava", "336 x 112 pixels its processor makes other pixels than the encoding"),
    "pixtral": ("llava", "its processor makes 37 tokens, and the encoding 26"),
    "internvl": ("internvl", "its processor makes 49 tokens, and the encoding 47"),
    "idefics3": ("idefics3", "its processor makes 60 tokens, and the encoding 46"),
    "smolvlm": ("smolvlm", "num2words"),
    "gemma3": ("gemma3", "its processor makes 33 tokens, and the encoding 24"),
    "paligemma": ("paligemma", "its processor makes 32 tokens, and the encoding 30"),
    "mistral3": ("mistral3", "its processor makes 37 tokens, and the encoding 26"),
}
"""Model type, and what differs."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_not_served_is_one_line(name, tmp_path):
    model_type, what = REFUSED[name]
    directory = save_family(name, tmp_path / name)
    for check in (check_served, model_at, lambda place: check_start(Store(str(tmp_path)), place)):
        with pytest.raises(InputError) as caught:
            check(directory)
        line = str(caught.value)
        assert line.startswith(f"model {directory}: model type '{model_type}' cannot be served exactly: ")
        assert what in line
        assert line.endswith("; served today: LLaVA-1.5")
        assert "\n" not in line


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


def test_every_job_refuses_such_a_model_before_ray_starts_and_before_anything_is_made(tmp_path):
    directory = save_family("qwen2_5_vl", tmp_path / "qwen")
    store = Store(str(tmp_path / "runs"))
    for name in ("prompts/toy", "pairs/toy-1/toy/diffusion-300"):
        store.open(name, config={}).finish({})
    before = sorted(Path(store.root).rglob("*"))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'jobs'}"}
    command = [sys.executable, "-c", JOBS, store.root, directory]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.stdout.splitlines() == [
        f"{name} 2 False" for name in ("full", "generate", "train", "evaluate", "sweep", "plan")
    ], ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 6
    assert {line.split("; ")[-1] for line in lines} == {"served today: LLaVA-1.5"}
    assert all(f"error: model {directory}: model type 'qwen2_5_vl'" in line for line in lines)
    assert sorted(Path(store.root).rglob("*")) == before


def test_the_main_job_says_so_within_seconds(tmp_path):
    directory = save_family("qwen3_vl", tmp_path / "qwen")
    command = [sys.executable, "jobs/full.py", "toy", "--model", directory, "--root", str(tmp_path / "runs")]
    began = time.monotonic()
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    _, line = ended.stderr.splitlines()  # the first one names the job and its root
    assert line.startswith(f"error: model {directory}: model type 'qwen3_vl' cannot be served exactly")
    assert time.monotonic() - began < 120
