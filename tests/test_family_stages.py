"""The stages of a run with models of other families: real images of different shapes, real training, real reports."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_bytes
from seva_ray.stages.training.train import train
from tests.small_run import small_run
from tests.test_train import CONFIG
from tests.tiny_models import save_family

ROOT = Path(__file__).parent.parent


def check_policy(store: Store, name: str, directory: str) -> None:
    """It was trained from exact reference log-probabilities, and nothing but its language model has changed."""
    policy = store.find(f"policies/{name}")
    losses = [row["loss"] for row in json.loads(read_bytes(policy.path("log.json"))) if "loss" in row]
    assert len(losses) == policy.counts["num_steps"] > 1
    assert losses[0] == pytest.approx(0.693, abs=0.01), "the reference and the policy differ before the first step"
    before, after = (load_file(Path(place, "model.safetensors")) for place in (directory, policy.path("model")))
    assert after.keys() == before.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert not any(part in key for key in changed for part in ("visual", "vision", "projector", "connector", "embed"))


@pytest.mark.slow
def test_qwen2_5_vl_is_generated_from_paired_and_trained(ray_cluster: None, tmp_path: Path):
    directory = save_family("qwen2_5_vl", tmp_path / "qwen", weights=True)
    run = small_run(str(tmp_path / "runs"), directory)
    train(replace(CONFIG, learning_rate=1e-2), run.store, "qwen", run.model, run.pairs)
    logps = run.store.find(f"logps/{run.pairs.name.removeprefix('pairs/')}/float32")
    assert logps.counts["plain_because"] is None, "image and question are computed once per pair"
    check_policy(run.store, "qwen", directory)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "idefics3", "internvl"])
def test_the_main_job_goes_from_prompts_to_a_report(name: str, tmp_path: Path):
    """With vLLM, as it is run for real."""
    directory = save_family(name, tmp_path / name, weights=True)
    words = [
        "toy", "--root", str(tmp_path / "runs"), "--model", directory, "--views", "diffusion-600",
        "--controls", "control-repeat", "--benchmarks.toy-images", "4", "--prepare.shard-size", "32",
        "--train.num-pairs", "8", "--train.global-batch-size", "4", "--train.per-device-batch-size", "2",
        "--train.learning-rate", "1e-2", "--generate.decoding.max-new-tokens", "8",
        "--generate.engine.max-model-len", "512", "source:toy-world", "--source.num-images", "6",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, str(ROOT / "jobs/full.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"toy, aligned from {name}:" in done.stdout
    store = Store(str(tmp_path / "runs"))
    assert Path(store.uri("reports/toy/index.html")).exists()
    for view in ("clean", "diffusion-600"):
        counts = store.find(f"responses/{name}/toy/{view}").counts
        assert counts["num_responses"] == counts.get("num_stop", 0) + counts.get("num_length", 0), counts
    check_policy(store, "toy", directory)
