"""Memory of one GPU that training and an engine take, before any is taken, and the options that would take less.

In: the sizes of a model, the settings, and the memory of a card. The figures follow from what DeepSpeed and vLLM keep;
none has been measured on a GPU yet. All sizes are in GiB.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

from seva_ray.dpo.config import Train
from seva_ray.engines import TransformersEngine, VllmEngine
from seva_ray.engines.img2img import num_weights
from seva_ray.vlm.model_shape import ModelShape

GIB = 2**30
PROMPT_TOKENS, RESPONSE_TOKENS = 45, 100
"""Tokens of a question and of an answer, as LLaVA's instructions and answers have in the mean."""
LOGITS_AT_ONCE = 2**26
"""Largest number of logits that a GPU holds at a time."""
BUCKET = 5e8
"""Numbers in each of DeepSpeed's two buffers for gradients (`reduce_bucket_size`, `allgather_bucket_size`)."""
RUNTIME_GIB = 2.0
"""What CUDA and NCCL take in each process. Without a GPU, it is about what the libraries take."""
ENGINE_GIB = 1.5
"""What an engine takes beside weights and KV cache: activations of its largest batch, CUDA graphs."""
PAIRS_AT_ONCE = (4, 2, 1)
"""Numbers of pairs in one forward pass that a training chooses from. More make a GPU hardly faster."""
PAIRS_ON_CPU = 2
"""Largest number of pairs in one forward pass that a training on CPUs chooses."""
CHOSEN_SHARE = 0.85
"""Share of a card's memory that a chosen number of pairs may take by our estimate, which no GPU has confirmed."""
RANKS = (512, 256, 128, 64, 32, 16)
"""Ranks that are proposed."""


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """What one training worker keeps on its GPU, in GiB."""

    weights: float
    """The frozen model."""
    adapter: float
    optimizer: float
    """A float32 copy of the trained weights and AdamW's two moments."""
    gradients: float
    """Sums of gradients in float32, and the copy that a step of the optimiser makes of them."""
    buffers: float
    activations: float
    runtime: float = RUNTIME_GIB

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def training_memory(shape: ModelShape, config: Train, num_workers: int) -> TrainingMemory:
    """Memory of one of `num_workers` workers.

    ZeRO shards the optimiser from stage 1, gradients from stage 2 and weights in stage 3. Without it, the adapter, its
    gradients and torch's buffers are float32 and whole on every worker.
    """
    trained = (
        shape.num_language_weights if config.full else shape.adapter_weights(config.lora.rank, config.lora.experts)
    )
    width = 2 if config.dtype == "bfloat16" else 4
    stage, share = config.zero_stage, 1 / num_workers
    held = share if stage == 3 else 1.0
    # Weights of the model itself that are trained are among those below, but they are float32 without ZeRO.
    adapter = trained * ((4 if stage == 0 else width) - (width if config.full else 0)) * held
    gradients = 4 * trained * (share if stage >= 2 else 1) + (4 * trained * share if stage else 0)
    buffers = 4 * trained if stage == 0 else 2 * min(BUCKET, trained) * width
    if stage == 3:
        buffers += 2 * width * shape.num_language_weights / shape.num_layers  # the layers that are gathered at a time
    return TrainingMemory(
        weights=shape.num_weights * width * held / GIB,
        adapter=adapter / GIB,
        optimizer=0.0 if config.offload else trained * (12 if stage else 8) * (share if stage else 1) / GIB,
        gradients=0.0 if config.offload else gradients / GIB,
        buffers=buffers / GIB,
        activations=activations(shape, config, width) / GIB,
    )


def activations(shape: ModelShape, config: Train, width: int) -> float:
    """Bytes of activations of one forward and backward pass: the inputs of all layers and the inside of one, or with no
    checkpointing the inside of all; and the logits of the responses. The inside of a layer is 34 bytes for each hidden
    number in 16 bits (Korthikanti et al. 2022, arXiv 2205.05198, without attention scores), and the adapter's."""
    prompt, answers = shape.num_image_tokens + PROMPT_TOKENS, 2 * RESPONSE_TOKENS
    pairs = config.per_device_batch_size or 1
    if config.loss.reads_view:  # a second prompt, with the chosen answer or with both
        on_view = RESPONSE_TOKENS * (2 if config.loss.symmetric_weight else 1)
        answers, prompt = answers + on_view, 2 * prompt
    tokens = pairs * (prompt * (1 if config.shared_prefix else 2) + answers)
    rank = 0 if config.full else config.lora.rank
    of_layer = tokens * width * (17 * shape.hidden_size + 7 * rank)
    kept = tokens * width * shape.hidden_size if config.gradient_checkpointing else of_layer
    logits = min(pairs * answers * shape.vocabulary_size, LOGITS_AT_ONCE) * (width + 8)
    return kept * shape.num_layers + of_layer + logits


def scoring_memory(shape: ModelShape, config: Train) -> float:
    """What a worker keeps on its GPU while it scores the reference, in GiB. It holds the whole model, also if weights
    are sharded later."""
    width = 2 if config.dtype == "bfloat16" else 4
    return (shape.num_weights * width + activations(shape, config, width) / shape.num_layers) / GIB + RUNTIME_GIB


def engine_on_cpus(num_weights: int, engine: VllmEngine | TransformersEngine) -> float:
    """What an engine takes of a machine without GPUs, in GiB: weights, vLLM's KV cache, and what the libraries take."""
    cache = engine.cpu_kv_cache_gb if isinstance(engine, VllmEngine) else 0
    return num_weights * (4 if engine.dtype == "float32" else 2) / GIB + cache + RUNTIME_GIB


def loaded_memory(num_weights: int) -> float:
    """What a process on CPUs takes that computes with a model in float32, in GiB."""
    return 4 * num_weights / GIB + RUNTIME_GIB


def needed(shape: ModelShape, config: Train, num_workers: int) -> float:
    """Memory of each GPU that a training takes at its most, in GiB."""
    return max(training_memory(shape, config, num_workers).total, scoring_memory(shape, config))


def with_batch_size(config: Train, shape: ModelShape | None, workers: range, gib: float | None) -> Train:
    """The settings with a number of pairs in one forward pass, if they have none: the largest of PAIRS_AT_ONCE that any
    number of `workers` can share evenly and that fits on their cards of `gib` GiB; 1 if none fits. On CPUs, `shape` and
    `gib` are None."""
    if config.per_device_batch_size is not None:
        return config
    for size in PAIRS_AT_ONCE:
        if not all(config.can_share(number, size) for number in workers):
            continue
        sized = replace(config, per_device_batch_size=size)
        if shape is None or gib is None:
            fits = size <= PAIRS_ON_CPU
        else:
            fits = training_memory(shape, sized, workers[0]).total <= CHOSEN_SHARE * gib
        if fits:
            return sized
    return replace(config, per_device_batch_size=1)


def training_refusal(shape: ModelShape, config: Train, num_workers: int, card: str, gib: float) -> str | None:
    """A line if training does not fit on the card, with the options that would; None if it fits."""
    need = needed(shape, config, num_workers)
    if need <= gib:
        return None
    fitting = [
        f"{option} ({total:.0f} GiB)"
        for option, other in smaller(config, num_workers)
        if (total := needed(shape, other, num_workers)) <= gib
    ]
    lower = (
        f"{option} ({total:.0f} GiB, other results)"
        for option, other in lower_ranks(config)
        if (total := needed(shape, other, num_workers)) <= gib
    )
    fitting += islice(lower, 1)
    advice = f"what would fit: {', or '.join(fitting)}" if fitting else "no option makes it fit"
    where = f"each of {num_workers} GPUs" if num_workers > 1 else "the GPU"
    return (
        f"train: about {need:.0f} GiB needed on {where}, and {card} has {gib:.0f}; {advice}; "
        "--train.no-memory-check tries all the same"
    )


def smaller(config: Train, num_workers: int) -> Iterator[tuple[str, Train]]:
    """Settings that take less memory and give the same results: words on the command line, and the settings."""
    plain: list[tuple[str, dict[str, Any]]] = []
    if not config.gradient_checkpointing:
        plain.append(("--train.gradient-checkpointing", {"gradient_checkpointing": True}))
    if (config.per_device_batch_size or 1) > 1:
        plain.append(("--train.per-device-batch-size 1", {"per_device_batch_size": 1}))
    if not config.offload and config.zero_stage:
        plain.append(("--train.offload", {"offload": True}))
    if num_workers > 1 and config.zero_stage < 3 and config.min_workers is None:
        plain.append(("--train.zero-stage 3", {"zero_stage": 3}))
    for word, values in plain:
        yield word, replace(config, **values)
    if len(plain) > 1:
        together = {name: value for _, values in plain for name, value in values.items()}
        yield " ".join(word for word, _ in plain), replace(config, **together)


def lower_ranks(config: Train) -> Iterator[tuple[str, Train]]:
    """Smaller adapters, the largest first: words on the command line, and the settings."""
    for rank in RANKS:
        if not config.full and rank < config.lora.rank:
            lora = replace(config.lora, rank=rank, alpha=max(1, config.lora.alpha * rank // config.lora.rank))
            words = f"--train.lora.rank {rank} --train.lora.alpha {lora.alpha}"
            yield words, replace(config, lora=lora)


def memory_lines(
    shape: ModelShape,
    config: Train,
    num_workers: int,
    engine: VllmEngine | None,
    max_new_tokens: int,
    gib: float | None,
) -> list[str]:
    """What training and an engine take of a GPU, for a plan. `gib`: memory of the GPU, or None if it is unknown."""
    config = with_batch_size(config, shape, range(num_workers, num_workers + 1), gib)
    memory = training_memory(shape, config, num_workers)
    parts = ", ".join(f"{field.name} {getattr(memory, field.name):.1f}" for field in fields(memory))
    lines = [f"memory of each GPU in training, of {num_workers} in all: {memory.total:.0f} GiB ({parts})"]
    if gib is None:
        return [*lines, "--fleet.gpu-gib 80 would say whether that fits a card of 80 GiB"]
    card = f"a GPU of {gib:.0f} GiB"
    lines += filter(None, [training_refusal(shape, config, num_workers, card, gib)])
    if engine is not None:
        held = sequences_held(shape, engine, gib, max_new_tokens)
        lines.append(engine_refusal(shape, engine, card, gib) or f"answers at once in an engine on {card}: {held:,}")
    return lines


def pipeline_line(directory: str, dtype: str, gib: float | None) -> str:
    """What the weights of a diffusers pipeline take of a GPU, for a plan. Raises: InputError as `check_pipeline`."""
    weights = num_weights(directory) * (4 if dtype == "float32" else 2) / GIB
    fits = "" if gib is None else f"; the card has {gib:.0f} GiB" + (", so it does not fit" if weights > gib else "")
    return f"memory of a GPU that regenerates images: {weights:.1f} GiB of weights, and its images{fits}"


def sequences_held(shape: ModelShape, engine: VllmEngine, gib: float, max_new_tokens: int) -> int:
    """How many sequences of a typical prompt and `max_new_tokens` an engine's KV cache holds at once on such cards."""
    tokens = shape.num_image_tokens + PROMPT_TOKENS + min(max_new_tokens, RESPONSE_TOKENS)
    return cache_tokens(shape, engine, gib) // tokens


def cache_tokens(shape: ModelShape, engine: VllmEngine, gib: float) -> int:
    """How many tokens the KV cache of an engine holds; 0 if the weights alone do not fit."""
    width = 4 if engine.dtype == "float32" else 2
    gpus = engine.tensor_parallel_size
    free = engine.gpu_memory_utilization * gib - shape.num_weights * width / GIB / gpus - ENGINE_GIB
    return max(0, math.floor(free * GIB * gpus / shape.cache_bytes(width)))


def engine_refusal(shape: ModelShape, engine: VllmEngine, card: str, gib: float) -> str | None:
    """A line if no sequence of `max_model_len` tokens fits on the card, with the options that would help."""
    held = cache_tokens(shape, engine, gib)
    if held >= engine.max_model_len:
        return None
    options = []
    if held >= shape.num_image_tokens + PROMPT_TOKENS + RESPONSE_TOKENS:
        options.append(f"--generate.engine.max-model-len {held // 128 * 128}")
    if engine.dtype == "float32":
        options.append("--generate.engine.dtype float16")
    for number in (2, 4, 8):
        wide = replace(engine, tensor_parallel_size=number)
        if number > engine.tensor_parallel_size and cache_tokens(shape, wide, gib) >= engine.max_model_len:
            options.append(f"--generate.engine.tensor-parallel-size {number}")
            break
    weights = shape.num_weights * (4 if engine.dtype == "float32" else 2) / GIB
    return (
        f"generate: the weights take {weights:.1f} of the {gib:.0f} GiB of {card}, and the rest holds {held:,} tokens "
        f"of max_model_len {engine.max_model_len:,}; {' or '.join(options) or 'a larger card'} would do; "
        "--generate.no-memory-check tries all the same"
    )
