"""Memory of a GPU, estimated before it is spent: the figures that are known, and lines with options that would fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel, LlamaConfig

import presets
from seva_ray.core.errors import InputError
from seva_ray.dpo.config import Loss, Train
from seva_ray.dpo.policy import Lora, load_model
from seva_ray.dpo.token_logps import CHUNK_BYTES_OF_GPU
from seva_ray.engines import VllmEngine
from seva_ray.planning.memory import (
    LOGITS_AT_ONCE,
    cache_tokens,
    engine_refusal,
    scoring_memory,
    sequences_held,
    training_memory,
    training_refusal,
    with_batch_size,
)
from seva_ray.vlm.model_parts import decoder_name
from seva_ray.vlm.model_shape import LLAVA_7B, LLAVA_13B, ModelShape, shape_of
from tests.tiny_models import save_family

LLAVA_TRAIN = replace(presets.LLAVA_TRAIN, per_device_batch_size=2)
LLAVA_13B_TRAIN = replace(presets.LLAVA_13B_TRAIN, per_device_batch_size=1)
L4, A100, H100 = ("NVIDIA L4", 22.0), ("NVIDIA A100-SXM4-40GB", 39.4), ("NVIDIA H100 80GB HBM3", 79.1)
RANK_128 = replace(LLAVA_TRAIN, lora=Lora(rank=128, alpha=256))


@pytest.mark.parametrize(
    ("shape", "config", "num_workers", "gib"),
    [
        (LLAVA_7B, LLAVA_TRAIN, 8, 29),
        (LLAVA_7B, LLAVA_TRAIN, 4, 34),
        (LLAVA_7B, LLAVA_TRAIN, 2, 46),
        (LLAVA_7B, LLAVA_TRAIN, 1, 70),
        (LLAVA_7B, replace(LLAVA_TRAIN, offload=True), 1, 22),
        (LLAVA_7B, RANK_128, 1, 24),
        (LLAVA_7B, replace(LLAVA_TRAIN, zero_stage=0), 1, 64),
        (LLAVA_7B, replace(LLAVA_TRAIN, full=True), 8, 33),
        (LLAVA_7B, replace(LLAVA_TRAIN, full=True, zero_stage=0), 1, 129),
        (LLAVA_13B, LLAVA_13B_TRAIN, 8, 19),
    ],
)
def test_training_takes_what_was_counted_by_hand(shape: ModelShape, config: Train, num_workers: int, gib: float):
    """Sums by hand from what DeepSpeed keeps, with gradients in float32 and 2 GiB for CUDA and NCCL."""
    assert training_memory(shape, config, num_workers).total == pytest.approx(gib, abs=1)


def test_a_large_vocabulary_takes_no_more_than_the_logits_that_are_computed_at_a_time():
    def total(vocabulary_size: int) -> float:
        return training_memory(replace(LLAVA_7B, vocabulary_size=vocabulary_size), LLAVA_TRAIN, 8).activations

    assert LOGITS_AT_ONCE == CHUNK_BYTES_OF_GPU // 4
    assert total(32_000) < total(300_000) == total(10**6)


def test_sharding_and_offloading_take_less_and_a_larger_batch_takes_more():
    def total(num_workers: int = 4, **changed: Any) -> float:
        return training_memory(LLAVA_7B, replace(LLAVA_TRAIN, **changed), num_workers).total

    assert total(zero_stage=0) > total(zero_stage=1) > total(zero_stage=2) > total(zero_stage=3)
    assert total(offload=True) < total() < total(gradient_checkpointing=False)
    assert total(num_workers=8) < total() < total(per_device_batch_size=8) < total(dtype="float32")
    assert total(per_device_batch_size=8) < total(per_device_batch_size=8, shared_prefix=False)


def test_image_terms_take_the_activations_of_a_second_prompt():
    usual, images, both = (
        training_memory(LLAVA_7B, replace(LLAVA_TRAIN, loss=loss), 4).total
        for loss in (Loss(anchor_weight=1.0), Loss(image_weight=1.0), Loss(symmetric_weight=0.5))
    )
    assert training_memory(LLAVA_7B, LLAVA_TRAIN, 4).total == usual < images < both


def test_the_published_presets_fit_where_the_readme_says():
    assert training_refusal(LLAVA_7B, LLAVA_TRAIN, 1, *H100) is None
    assert training_refusal(LLAVA_7B, LLAVA_TRAIN, 4, *A100) is None
    assert training_refusal(LLAVA_13B, LLAVA_13B_TRAIN, 4, *A100) is None
    assert training_refusal(LLAVA_13B, LLAVA_13B_TRAIN, 2, *H100) is None
    assert training_refusal(LLAVA_13B, LLAVA_13B_TRAIN, 1, *H100)
    assert training_refusal(LLAVA_7B, LLAVA_TRAIN, 2, *A100)


def test_the_number_of_pairs_in_a_forward_pass_follows_from_the_card_and_the_workers():
    def chosen(config: Train, shape: ModelShape | None, workers: range, gib: float | None) -> int | None:
        return with_batch_size(config, shape, workers, gib).per_device_batch_size

    open_7b, open_13b = presets.LLAVA_TRAIN, presets.LLAVA_13B_TRAIN
    assert [chosen(open_7b, LLAVA_7B, range(n, n + 1), H100[1]) for n in (1, 2, 8)] == [1, 4, 4]
    assert [chosen(open_7b, LLAVA_7B, range(n, n + 1), A100[1]) for n in (1, 4, 8)] == [1, 1, 4]
    assert chosen(open_13b, LLAVA_13B, range(8, 9), L4[1]) == 1
    assert chosen(open_7b, None, range(2, 3), None) == 2
    assert chosen(replace(open_7b, global_batch_size=6), None, range(2, 3), None) == 1
    assert chosen(replace(open_7b, global_batch_size=12, zero_stage=0), LLAVA_7B, range(1, 4), H100[1]) == 2
    assert chosen(LLAVA_TRAIN, LLAVA_7B, range(1, 2), L4[1]) == 2, "what is given is kept"
    for n in (1, 2, 4, 8):
        number = chosen(open_7b, LLAVA_7B, range(n, n + 1), H100[1])
        assert number is not None
        assert open_7b.can_share(n, number)


def test_a_card_must_hold_the_whole_model_too_because_the_reference_is_scored_before_weights_are_sharded():
    assert training_memory(LLAVA_13B, LLAVA_13B_TRAIN, 8).total < L4[1]
    assert scoring_memory(LLAVA_13B, LLAVA_13B_TRAIN) == pytest.approx(27, abs=1)
    line = training_refusal(LLAVA_13B, LLAVA_13B_TRAIN, 8, *L4)
    assert line is not None
    assert line.startswith("train: about 27 GiB needed on each of 8 GPUs, and NVIDIA L4 has 22; no option makes it fit")


def test_a_job_that_does_not_fit_is_one_line_with_options_that_would():
    assert training_refusal(LLAVA_7B, LLAVA_TRAIN, 1, *A100) == (
        "train: about 70 GiB needed on the GPU, and NVIDIA A100-SXM4-40GB has 39; what would fit: --train.offload "
        "(23 GiB), or --train.per-device-batch-size 1 --train.offload (22 GiB), or --train.lora.rank 256 "
        "--train.lora.alpha 512 (31 GiB, other results); --train.no-memory-check tries all the same"
    )
    eight = training_refusal(LLAVA_7B, LLAVA_TRAIN, 8, *L4)
    assert eight is not None
    assert "needed on each of 8 GPUs, and NVIDIA L4 has 22; what would fit: --train.zero-stage 3 (15 GiB), or" in eight
    nothing = training_refusal(LLAVA_13B, replace(LLAVA_TRAIN, full=True), 1, *L4)
    assert nothing is not None
    assert "no option makes it fit" in nothing


def test_every_option_that_is_proposed_fits():
    """Read from the line, as a user would."""
    line = training_refusal(LLAVA_7B, LLAVA_TRAIN, 1, *A100)
    assert line is not None
    for config in (replace(LLAVA_TRAIN, offload=True), replace(LLAVA_TRAIN, lora=Lora(rank=256, alpha=512))):
        assert training_refusal(LLAVA_7B, config, 1, *A100) is None


@pytest.mark.parametrize(("card", "sequences"), [(L4, 14), (A100, 59), (H100, 160)])
def test_the_cache_of_an_engine_holds_what_is_left_beside_the_weights(card: tuple[str, float], sequences: int):
    assert sequences_held(LLAVA_7B, VllmEngine(), card[1], 512) == sequences


def test_an_engine_that_has_no_room_for_a_sequence_is_one_line_with_the_option_that_helps():
    assert engine_refusal(LLAVA_7B, VllmEngine(), *L4) is None
    line = engine_refusal(LLAVA_13B, VllmEngine(), *L4)
    assert line is not None
    assert line.startswith("generate: the weights take 24.9 of the 22 GiB of NVIDIA L4, and the rest holds 0 tokens of")
    assert line.endswith(
        "--generate.engine.tensor-parallel-size 2 would do; --generate.no-memory-check tries all the same"
    )
    assert engine_refusal(LLAVA_13B, VllmEngine(tensor_parallel_size=2), *L4) is None
    long = engine_refusal(LLAVA_7B, VllmEngine(max_model_len=16384), *L4)
    assert long is not None
    assert f"--generate.engine.max-model-len {cache_tokens(LLAVA_7B, VllmEngine(), L4[1]) // 128 * 128} or" in long
    assert "dtype float16" in str(engine_refusal(LLAVA_7B, VllmEngine(dtype="float32"), *L4))


def test_the_sizes_of_a_model_are_read_from_its_files(toy_model: str):
    shape, model = shape_of(toy_model), load_model(toy_model, "float32")
    assert shape.num_weights == sum(weight.numel() for weight in model.parameters())
    assert shape.num_image_tokens == model.config.image_seq_length
    language = [weight for name, weight in model.named_parameters() if "language_model" in name or "lm_head" in name]
    assert shape.num_language_weights == sum(weight.numel() for weight in language)
    assert shape.num_expert_weights == 0
    with torch.device("meta"):
        adapter = get_peft_model(model, Lora(rank=4, alpha=8).peft(model))
    trained = sum(weight.numel() for weight in adapter.parameters() if weight.requires_grad)
    assert shape.adapter_weights(4) == trained
    assert LLAVA_7B.adapter_weights(1024) == 2_558_525_440


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl_moe"])
def test_the_sizes_of_another_family_are_read_from_its_structure(name: str, tmp_path: Path):
    directory = save_family(name, tmp_path / name, weights=True)
    shape, model = shape_of(directory), load_model(directory, "float32")
    assert shape.num_weights == sum(weight.numel() for weight in model.parameters())
    inside = [weight for part in (model.model.language_model, model.lm_head) for weight in part.parameters()]
    assert shape.num_language_weights == sum(weight.numel() for weight in inside)
    experts = [weight for key, weight in model.named_parameters() if ".experts." in key]
    assert shape.num_expert_weights == sum(weight.numel() for weight in experts)
    adapter = get_peft_model(model, Lora(rank=4, alpha=8).peft(model))
    assert shape.adapter_weights(4) == sum(weight.numel() for weight in adapter.parameters() if weight.requires_grad)


def test_a_model_whose_language_model_cannot_be_found_is_one_line():
    with torch.device("meta"):
        model = AutoModel.from_config(LlamaConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1))
    with pytest.raises(InputError, match=r"^model .*: transformers does not say which part is the language model$"):
        decoder_name(model)
