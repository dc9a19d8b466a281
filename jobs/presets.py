"""Named values that jobs share: a model that two cores can train, and LLaVA-1.5 as in the paper."""

from dataclasses import replace

from seva_ray.dpo.config import Train
from seva_ray.dpo.policy import Lora
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.stages.generate import Generate

TOY_GENERATE = Generate(
    engine=VllmEngine(dtype="float32", max_model_len=256, enforce_eager=True),
    decoding=Decoding(max_new_tokens=44),
    system="",
)
TOY_TRAIN = Train(
    lora=Lora(rank=16, alpha=32),
    learning_rate=1e-4,
    warmup_ratio=0.1,
    num_repeats=1,
    num_pairs=1000,
    global_batch_size=24,
    per_device_batch_size=12,
    num_workers=2,
    dtype="float32",
    gradient_checkpointing=False,
)

LLAVA_GENERATE = Generate()
LLAVA_TRAIN = Train()
LLAVA_13B_TRAIN = replace(LLAVA_TRAIN, zero_stage=3, per_device_batch_size=1)
