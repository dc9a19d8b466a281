"""Trains on exported pairs for two steps with ms-swift's own DPO, in its own environment.

ROOT_IMAGE_DIR=DIRECTORY python tests/clients/swift_steps.py DIRECTORY MODEL OUT

Prints a line of JSON: the loss of each step, and of the first batch its texts (chosen answers, then rejected) and the
shape of its pixels.
"""

import json
import sys
from typing import Any

from swift import RLHFArguments, rlhf_main
from swift.rlhf_trainers.dpo_trainer import DPOTrainer

directory, model, out = sys.argv[1:]
batches: list[dict[str, Any]] = []
forward = DPOTrainer.concatenated_forward


def noted(self: Any, policy: Any, batch: Any, *others: Any, **options: Any) -> Any:
    texts = self.template.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    batches.append({"texts": texts, "pixels": list(batch["pixel_values"].shape)})
    return forward(self, policy, batch, *others, **options)


DPOTrainer.concatenated_forward = noted
result = rlhf_main(
    RLHFArguments(
        rlhf_type="dpo", dataset=[f"{directory}/swift.jsonl"], model=model, model_type="llava1_5_hf", output_dir=out,
        max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3, beta=0.1,
        tuner_type="lora", torch_dtype="float32", use_cpu=True, logging_steps=1, report_to=[], save_strategy="no",
        split_dataset_ratio=0.0,
    )
)  # fmt: skip
losses = [line["loss"] for line in result["log_history"] if "loss" in line]
print(json.dumps({"losses": losses, **batches[0]}))
