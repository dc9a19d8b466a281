"""Under ZeRO-3 no worker holds a whole weight; what training leaves behind must be whole all the same."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import datasets, pyarrow as pa, torch, trl
from PIL import Image
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.dpo.policy import Lora, load_model
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Train, deepspeed_config
from seva_ray.private.deepspeed import skip_compiled_collectives
from seva_ray.stages.training.worker import merge
from seva_ray.stages.training.trainer import PreferenceTrainer
from seva_ray.vlm.views import Viewer

model, scratch = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
Image.new("RGB", (48, 48), "red").save(f"{scratch}/red.png")
skip_compiled_collectives()
zero3 = deepspeed_config(Train(zero_stage=3))
zero3["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else weights this small stay whole
encoder = Encoder(model)
row = {"prompt_id": "p", "question": "how many objects are there ?", "image_path": "red.png", "image_bytes": None}
row |= {"chosen_token_ids": [20, 2], "rejected": [{"token_ids": [30, 31, 2]}], "ref_logps": [-9.0, -9.0], "weight": 1.0}
trainer = PreferenceTrainer(
    config=Train(),
    model=load_model(model, "float32"),
    args=trl.DPOConfig(
        output_dir=scratch, learning_rate=1e-2, max_steps=2, bf16=False, gradient_checkpointing=False, use_cpu=True,
        deepspeed=zero3, max_length=None, remove_unused_columns=False, report_to="none", save_strategy="no",
    ),
    train_dataset=datasets.Dataset(pa.Table.from_pylist([row, row])),
    processing_class=encoder.processor,
    data_collator=PreferenceCollator(viewer=Viewer(encoder=encoder, image_root=scratch, max_pixels=MAX_PIXELS)),
    peft_config=Lora(rank=4, alpha=8).peft(),
)
trainer.train()
assert all(parameter.numel() == 0 for parameter in trainer.model.parameters()), "nothing is sharded"
merge(trainer, model, encoder, "float32")
"""


def test_the_merged_policy_is_whole_although_no_worker_held_a_whole_weight(toy_model, tmp_path):
    one_worker = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, toy_model, str(tmp_path)],
        env=os.environ | one_worker | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    start = load_file(f"{toy_model}/model.safetensors")
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged.keys() == start.keys()
    changed = {name for name in start if not torch.equal(merged[name], start[name])}
    assert len(changed) == len(adapter) / 2 == 7 * 3
    for name in changed:
        inner = name.removeprefix("language_model.model.").removesuffix(".weight")
        a, b = (adapter[f"base_model.model.model.language_model.{inner}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(merged[name], start[name] + 8 / 4 * b @ a)
