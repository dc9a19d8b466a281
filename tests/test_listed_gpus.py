"""The demo, at a smaller size and in the environment for CPUs, on machines whose NVIDIA driver lists GPUs: it runs to
its page on CPUs, and one line says why."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.chaos.runs import shards
from tests.environment import pythonpath
from tests.nvml import listing_gpus

ROOT = Path(__file__).parent.parent
SMALL = [
    "--name", "small", "--views", "diffusion-900", "--controls", "--benchmarks.toy-images", "3",
    "--prepare.shard-size", "8",
    "--train.num-repeats", "2", "--train.global-batch-size", "4", "--train.per-device-batch-size", "1",
    "source:toy-world", "--source.num-images", "10",
]  # fmt: skip

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use GPUs")

LIBRARIES = """
from vllm.platforms import current_platform
from seva_ray.private.ray import listed_gpus
from seva_ray.runtime import machine
print(listed_gpus()[0], machine.num_gpus(), current_platform.is_cpu())
"""


@pytest.mark.parametrize("number", [8, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 1, 2))])
def test_ray_lists_the_gpus_but_torch_and_vllm_compute_on_cpus(number: int, tmp_path: Path):
    environment = listing_gpus(number, tmp_path) | {"PYTHONPATH": pythonpath()}
    done = subprocess.run([sys.executable, "-c", LIBRARIES], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(number), "0", "True"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2, 8])
def test_the_demo_runs_on_cpus_to_its_page_and_one_line_says_why(number: int, toy_model: str, tmp_path: Path):
    root = tmp_path / "runs"
    command = [sys.executable, str(ROOT / "jobs" / "full.py"), "--root", str(root), "--model", toy_model, *SMALL]
    environment = listing_gpus(number, tmp_path) | {"PYTHONPATH": pythonpath()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    about = [line for line in done.stderr.splitlines() if "GPU" in line]
    counted = f"{number} GPU{'s' if number > 1 else ''}"
    assert about == (
        [
            f"this machine has {counted}, but torch {torch.__version__} is built for CPUs: the job runs on CPUs; "
            "cluster/images/install.sh gpu installs the CUDA build"
        ]
        if number
        else []
    )
    assert "Traceback" not in done.stderr
    assert (root / "reports" / "small" / "index.html").exists()
    assert (root / "policies" / "small" / "model" / "model.safetensors").exists()
    pairs = shards(str(root / "pairs" / Path(toy_model).name / "toy" / "diffusion-900" / "pairs"))
    assert pairs, "there are pairs to train on"
