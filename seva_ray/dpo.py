"""How Direct Preference Optimization is done: its settings, which pairs it sees, and DeepSpeed's part of it.

Source: Rafailov et al. 2023 (arXiv 2305.18290), with the settings of SeVa (arXiv 2404.10501) as defaults.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from seva_ray.errors import ConfigError
from seva_ray.fingerprints import execution
from seva_ray.policy import Lora
from seva_ray.records import PREFERENCE_SCHEMA
from seva_ray.seeds import key_of


@dataclass(frozen=True, kw_only=True)
class Train:
    """Direct Preference Optimization. The defaults are the paper's (LLaVA-1.5, 8 GPUs)."""

    beta: float = 0.1
    """Strength of the pull towards the reference."""
    learning_rate: float = 2e-6
    """Peak of the cosine schedule."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    num_repeats: int = 2
    """How often each pair is seen, in one shuffled epoch."""
    num_pairs: int | None = None
    """At most this many pairs, chosen by a hash of prompt_id: a smaller set is part of a larger one."""
    global_batch_size: int = 128
    """Pairs per optimiser step."""
    seed: int = 42
    """Of the adapter's start and of the order of pairs."""
    swap_sides: bool = False
    """Control: exchange chosen and rejected in half of the pairs, at random. A gain that survives is not SeVa's."""
    lora: Lora = field(default_factory=Lora)
    """The adapter."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen weights and of autocast."""
    zero_stage: Literal[0, 1, 2, 3] = execution(2)
    """DeepSpeed ZeRO stage: 1 shards the optimiser, 2 also gradients, 3 also weights; 0 is plain data parallel."""
    num_workers: int = execution(8)
    """One GPU each, or one CPU where the cluster has no GPU."""
    per_device_batch_size: int = execution(2)
    """Pairs per forward of one worker."""
    gradient_checkpointing: bool = execution(True)
    """Recompute activations in the backward pass: less memory, slower."""
    save_steps: int = execution(50)
    """Optimiser steps between checkpoints."""
    max_failures: int = execution(3)
    """How often a run goes on after losing workers."""

    def __post_init__(self) -> None:
        for name in ("beta", "learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} {getattr(self, name)}: must be above 0, and finite")
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warmup_ratio {self.warmup_ratio}: must be 0 or more and below 1")
        for name in ("weight_decay", "seed", "max_failures"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 0")
        for name in ("num_repeats", "global_batch_size", "num_workers", "per_device_batch_size", "save_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ConfigError(f"num_pairs {self.num_pairs}: must be at least 1")
        if self.global_batch_size % (self.num_workers * self.per_device_batch_size):
            raise ConfigError(
                f"global_batch_size {self.global_batch_size}: must be a multiple of num_workers "
                f"{self.num_workers} x per_device_batch_size {self.per_device_batch_size}"
            )


def preferences(pairs: pa.Table) -> pa.Table:
    """PAIR_SCHEMA as PREFERENCE_SCHEMA: a row for each rejected response."""
    counts = pc.list_value_length(pairs["rejected"]).to_pylist()
    rows = pa.array([row for row, count in enumerate(counts) for _ in range(count)], pa.int64())
    flat = pairs.drop_columns("rejected").take(rows)
    rejected = pc.list_flatten(pairs["rejected"])
    for name, part in (("view", "view"), ("rejected", "text"), ("rejected_token_ids", "token_ids")):
        flat = flat.append_column(name, pc.struct_field(rejected, part))
    return flat.select(PREFERENCE_SCHEMA.names).cast(PREFERENCE_SCHEMA)


def choose(pairs: pa.Table, config: Train) -> pa.Table:
    """The preferences to train on, in an order that depends on nothing but their ids."""
    pairs = preferences(pairs)
    ids = pairs["prompt_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda place: key_of(config.seed, "pairs", ids[place]))[: config.num_pairs]
    chosen = pairs.take(pa.array(order, pa.int64()))
    if not config.swap_sides:
        return chosen
    swap = pa.array([key_of(config.seed, "swap", prompt_id) % 2 == 1 for prompt_id in chosen["prompt_id"].to_pylist()])
    names = [("chosen", "rejected"), ("chosen_token_ids", "rejected_token_ids")]
    swapped = {a: pc.if_else(swap, chosen[b], chosen[a]) for pair in names for a, b in (pair, pair[::-1])}
    return pa.table({name: swapped.get(name, chosen[name]) for name in chosen.column_names}, schema=chosen.schema)


def deepspeed_config(config: Train) -> dict[str, Any] | None:
    """ZeRO of the wanted stage; sizes come from the trainer. No optimiser block: it would compile an op for minutes."""
    if config.zero_stage == 0:
        return None
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False, "contiguous_gradients": True}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
