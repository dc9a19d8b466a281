"""The trainer of the train stage as a test needs it: in this process, without DeepSpeed."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import pyarrow as pa
import transformers
import trl

from seva_ray.dpo.config import Train
from seva_ray.stages.training.trainer import PreferenceTrainer
from seva_ray.vlm.encoding import Encoder


def preference_trainer(
    config: Train,
    model: Any,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    collate: Callable[[Any], Any],
    scratch: str,
    **arguments: Any,
) -> PreferenceTrainer:
    """One that trains `model` on these rows, in float32 unless the `arguments` of TRL say otherwise."""
    return PreferenceTrainer(
        config=config,
        model=model,
        args=trl.DPOConfig(
            output_dir=scratch,
            use_cpu=True,
            max_length=None,
            remove_unused_columns=False,
            precompute_ref_log_probs=config.full,
            report_to="none",
            **{"bf16": False} | arguments,
        ),
        train_dataset=datasets.Dataset(pa.Table.from_pylist(list(rows))),
        processing_class=encoder.processor,
        data_collator=collate,
        peft_config=None if config.full else config.lora.peft(model),
    )


def four_steps(
    config: Train,
    model: Any,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    collate: Callable[[Any], Any],
    scratch: str,
    learning_rate: float,
) -> tuple[Any, list[dict[str, Any]]]:
    """The model after four steps, each on all rows, and what was logged of each step."""
    trainer = preference_trainer(
        config,
        model,
        encoder,
        [*rows] * 4,
        collate,
        scratch,
        per_device_train_batch_size=len(rows),
        max_steps=4,
        learning_rate=learning_rate,
        gradient_checkpointing=True,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return trainer.model, [line for line in trainer.state.log_history if "loss" in line]
