"""Trains on exported pairs for two steps with LLaMA-Factory's own DPO, in its own environment.

python tests/clients/llama_factory_steps.py DIRECTORY MODEL OUT

Prints a line of JSON: the loss of each step, and of the first batch its texts (chosen answers, then rejected) and the
shape of its pixels.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["DISABLE_VERSION_CHECK"] = "1"  # it names versions of datasets that ms-swift does not read

from llamafactory.train.dpo.trainer import CustomDPOTrainer
from llamafactory.train.tuner import run_exp

directory, model, out = sys.argv[1:]
batches: list[dict[str, Any]] = []
forward = CustomDPOTrainer.concatenated_forward


def noted(self: Any, policy: Any, batch: Any, *others: Any, **options: Any) -> Any:
    texts = self.processing_class.batch_decode(batch["input_ids"], skip_special_tokens=True)
    batches.append({"texts": texts, "pixels": list(batch["pixel_values"].shape)})
    return forward(self, policy, batch, *others, **options)


CustomDPOTrainer.concatenated_forward = noted
data = {"dataset": "seva", "dataset_dir": directory, "media_dir": directory, "template": "llava"}
adapter = {"stage": "dpo", "finetuning_type": "lora", "lora_target": "all", "pref_beta": 0.1}
steps = {"do_train": True, "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1}
place = {"output_dir": out, "report_to": "none", "save_strategy": "no", "use_cpu": True}
run_exp({"model_name_or_path": model, **data, **adapter, **steps, **place})
history = json.loads(Path(out, "trainer_state.json").read_text())["log_history"]
print(json.dumps({"losses": [line["loss"] for line in history if "loss" in line], **batches[0]}))
