"""What the workers save when a policy is trained: a model that vLLM and transformers load, without any pickle."""

import os
import shutil
from pathlib import Path
from typing import Any

from seva_ray.dpo.policy import copy_settings, export, is_of_weights, load_policy
from seva_ray.private.transformers import forget_deepspeed
from seva_ray.vlm.model_files import lay_out_as

POLICY = "policy.txt"
"""The file in a checkpoint that says which policy it belongs to."""


def save_merged(trainer: Any, start: str) -> str:
    """Rank 0 writes the merged policy, in the own dtype of the model in the directory `start`; return its directory.
    Every worker must call this, because under ZeRO-3 each holds a part of the weights."""
    adapter, merged = (os.path.join(trainer.args.output_dir, name) for name in ("adapter", "merged"))
    trainer.save_model(adapter)
    if trainer.is_world_process_zero():
        forget_deepspeed()  # otherwise the starting model would be loaded in parts under ZeRO-3
        export(load_policy(start, adapter), start, merged, trainer.args.device)
        for file in Path(adapter).iterdir():
            if file.name not in ("adapter_config.json", "adapter_model.safetensors"):
                file.unlink()  # one of these files is a pickle of the trainer's arguments
    return merged


def save_whole(trainer: Any, start: str) -> str:
    """The same as `save_merged`, for a policy whose own weights were trained."""
    import torch

    directory = os.path.join(trainer.args.output_dir, "whole")
    if not trainer.config.zero_stage:
        trainer.model.to(getattr(torch, trainer.config.dtype))  # what is trained is float32 until now
    trainer.save_model(directory)
    if trainer.is_world_process_zero():
        for file in Path(directory).iterdir():
            if not is_of_weights(file.name):
                file.unlink()  # the trainer's settings as a pickle, and the processor as transformers writes it
        lay_out_as(start, directory)
        copy_settings(start, directory)
    return directory


def uploaded(checkpoint: Any, name: str) -> Any:
    """Upload a checkpoint as Ray Train does. Raises: StorageUnavailable if a file could not be sent, which Arrow's copy
    does not say."""
    import ray.train

    storage = ray.train.get_context().get_storage()
    stored = storage.persist_current_checkpoint(checkpoint, name)
    storage.storage_filesystem.get_file_info(stored.path)  # this raises what closing a file has raised
    return stored


def last_checkpoint(policy_uri: str, scratch: str) -> str | None:
    """The run's last checkpoint as a local directory, or None if there is none or it belongs to another policy."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        if Path(directory, POLICY).read_text(encoding="utf-8") != policy_uri:
            return None
        target = os.path.join(scratch, "resumed")
        shutil.copytree(directory, target)
    return target
