"""Two workers under DeepSpeed in bfloat16, as LLaVA-1.5 is trained: gradients are summed in float32, and the policy is
whole although under ZeRO-3 no worker holds a whole weight. Without Ray, which would take a minute more."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.environment import pythonpath
from tests.ray_head import free_port

SCRIPT = """
import os, sys
import datasets, pyarrow as pa, torch, trl
from PIL import Image
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.dpo.policy import Lora, load_model, without_image_gradients
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Train, deepspeed_config
from seva_ray.private.deepspeed import skip_compiled_collectives
from seva_ray.stages.training.worker import save_merged
from seva_ray.stages.training.trainer import PreferenceTrainer
from seva_ray.vlm.views import Viewer

model, scratch, stage, dtype = sys.argv[1:]
rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=2)
Image.new("RGB", (48, 48), "red").save(f"{scratch}/red{rank}.png")
skip_compiled_collectives()
config = Train(zero_stage=int(stage), dtype=dtype)
settings = deepspeed_config(config)
if stage == "3":
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else weights this small stay whole
encoder = Encoder(model)
row = {"prompt_id": "p", "question": "how many objects are there ?", "image_path": f"red{rank}.png"}
row |= {"image_bytes": None, "ref_logps": [-9.0, -9.0], "weight": 1.0}
row |= {"chosen_token_ids": [20, 2], "rejected": [{"token_ids": [30, 31, 2]}]}
starting = load_model(model, dtype)
without_image_gradients(starting)
trainer = PreferenceTrainer(
    config=config,
    model=starting,
    args=trl.DPOConfig(
        output_dir=scratch, learning_rate=1e-2, max_steps=2, bf16=dtype == "bfloat16", use_cpu=True,
        gradient_checkpointing=True, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        deepspeed=settings, max_length=None, remove_unused_columns=False, report_to="none", save_strategy="no",
    ),
    train_dataset=datasets.Dataset(pa.Table.from_pylist(8 * [row])),
    processing_class=encoder.processor,
    data_collator=PreferenceCollator(viewer=Viewer(encoder=encoder, image_root=scratch, max_pixels=MAX_PIXELS)),
    peft_config=Lora(rank=4, alpha=8).peft(starting),
)
trainer.train()
assert trainer.model_wrapped.get_data_types() == (getattr(torch, dtype), torch.float32)
if stage == "3":
    assert all(parameter.numel() == 0 for parameter in trainer.model.parameters()), "nothing is sharded"
save_merged(trainer, model)
"""


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [(3, "bfloat16"), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, "bfloat16"), (2, "bfloat16")])],
)
def test_two_workers_leave_a_whole_policy_merged_in_the_dtype_of_the_start(toy_model, tmp_path, stage, dtype):
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": pythonpath()}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, toy_model, str(tmp_path), str(stage), dtype]
    workers = []
    for rank in "01":
        with open(tmp_path / f"{rank}.log", "w") as log:
            own = environment | {"RANK": rank, "LOCAL_RANK": rank}
            workers.append(subprocess.Popen(command, env=own, stdout=log, stderr=log))
    try:
        ended = [worker.wait(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert ended == [0, 0], "\n".join((tmp_path / f"{rank}.log").read_text()[-3000:] for rank in "01")
    start = load_file(f"{toy_model}/model.safetensors")
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged.keys() == start.keys()
    assert all(merged[name].dtype == start[name].dtype == torch.float32 for name in start)
    changed = {name for name in start if not torch.equal(merged[name], start[name])}
    assert len(changed) == len(adapter) / 2 == 7 * 3
    for name in changed:
        inner = name.removeprefix("language_model.model.").removesuffix(".weight")
        a, b = (adapter[f"base_model.model.model.language_model.{inner}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(merged[name], start[name] + 8 / 4 * b.float() @ a.float())
