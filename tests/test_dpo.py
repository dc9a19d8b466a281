"""Training without a cluster: its configuration, which pairs it takes, what DeepSpeed is told."""

from dataclasses import replace

import pyarrow as pa
import pytest

from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.core.records import PAIR_SCHEMA, table
from seva_ray.dpo.config import Train, deepspeed_config, swapped

# Configuration


def test_the_defaults_are_the_papers():
    config = Train()
    assert (config.beta, config.learning_rate, config.warmup_ratio, config.weight_decay) == (0.1, 2e-6, 0.03, 0.0)
    assert (config.global_batch_size, config.num_repeats, config.seed, config.dtype) == (128, 2, 42, "bfloat16")
    assert (config.lora.rank, config.lora.alpha) == (1024, 2048)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"beta": 0.0}, "beta 0.0: must be above 0"),
        ({"beta": float("nan")}, "beta nan: must be above 0"),
        ({"beta": float("inf")}, "beta inf: must be above 0"),
        ({"learning_rate": -1e-6}, "learning_rate -1e-06: must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm -1.0: must be at least 0, and finite"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm inf: must be at least 0, and finite"),
        ({"system": "vicuna"}, "system 'vicuna': must be one of generation, llava_v1, vicuna_v1"),
        ({"warmup_ratio": -0.1}, "warmup_ratio -0.1: must be 0 or more and below 1"),
        ({"warmup_ratio": 1.0}, "warmup_ratio 1.0: must be 0 or more and below 1"),
        ({"warmup_ratio": float("nan")}, "warmup_ratio nan: must be 0 or more and below 1"),
        ({"weight_decay": -0.1}, "weight_decay -0.1: must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay nan: must be at least 0"),
        ({"num_repeats": 0}, "num_repeats 0: must be at least 1"),
        ({"num_pairs": 0}, "num_pairs 0: must be at least 1"),
        ({"num_workers": 0}, "num_workers 0: must be at least 1"),
        ({"min_workers": 0, "zero_stage": 0}, "min_workers 0: must be at least 1"),
        ({"min_workers": 4, "num_workers": 2, "zero_stage": 0}, "min_workers 4: must be 1 to num_workers 2"),
        ({"min_workers": 2}, "min_workers 2: with zero_stage 2 a checkpoint can only be read by as many workers as"),
        ({"per_device_batch_size": 0}, "per_device_batch_size 0: must be at least 1"),
        ({"global_batch_size": 0}, "global_batch_size 0: must be at least 1"),
        ({"save_steps": 0}, "save_steps 0: must be at least 1"),
        ({"max_failures": -1}, "max_failures -1: must be at least 0"),
        ({"seed": -1}, "seed -1: must be at least 0"),
    ],
)
def test_a_value_that_cannot_work_is_named(values, line):
    with pytest.raises(ConfigError) as caught:
        Train(**values)
    assert str(caught.value).startswith(line)


def test_gradients_are_not_clipped_if_the_norm_is_0():
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    def clipping(norm: float) -> float:
        settings = HfTrainerDeepSpeedConfig(deepspeed_config(Train(max_grad_norm=norm)))
        args = TrainingArguments(max_grad_norm=norm, per_device_train_batch_size=1, use_cpu=True, bf16=False)
        settings.trainer_config_process(args)
        settings.trainer_config_finalize(args, None, 10)
        return DeepSpeedConfig(settings.config).gradient_clipping

    assert (clipping(0.0), clipping(0.5)) == (0.0, 0.5)


def test_a_global_batch_that_the_workers_cannot_share_is_named_with_all_three_numbers():
    with pytest.raises(ConfigError) as caught:
        Train(global_batch_size=100, num_workers=8, per_device_batch_size=2)
    assert str(caught.value) == ("global_batch_size 100: must be a multiple of num_workers 8 x per_device_batch_size 2")
    Train(global_batch_size=48, num_workers=8, per_device_batch_size=2)
    with pytest.raises(ConfigError, match=r"^global_batch_size 7: must be a multiple of per_device_batch_size 2$"):
        Train(global_batch_size=7, per_device_batch_size=2)
    with pytest.raises(ConfigError, match=r"^global_batch_size 128: must be a multiple of min_workers 3$"):
        Train(min_workers=3, zero_stage=0)


def test_the_place_of_a_run_is_no_part_of_its_identity():
    elsewhere = replace(Train(), num_workers=64, per_device_batch_size=1, zero_stage=3, save_steps=7, max_failures=0)
    assert identity(elsewhere) == identity(Train())
    assert identity(replace(Train(), beta=0.2)) != identity(Train())
    assert identity(replace(Train(), global_batch_size=64)) != identity(Train())


# Pairs


def pairs(number: int) -> pa.Table:
    rows = [
        {
            "prompt_id": f"p{index}",
            "image_id": f"i{index // 2}",
            "question": f"question {index}",
            "source": "toy",
            "image_bytes": b"\x89PNG" + bytes([index % 256]),
            "chosen": f"chosen {index}",
            "chosen_token_ids": [index, 1, 2],
            "rejected": [{"view": "diffusion-500", "text": f"rejected {index}", "token_ids": [index, 9]}],
        }
        for index in range(number)
    ]
    return table(rows, PAIR_SCHEMA)


def test_swapping_exchanges_both_sides_of_about_half_of_the_pairs_and_nothing_else():
    number = 0
    for before in pairs(400).to_pylist():
        row = swapped(before, seed=42)
        if row != before:
            number += 1
            (was,), (now,) = before.pop("rejected"), row.pop("rejected")
            assert (row.pop("chosen"), row.pop("chosen_token_ids")) == (was["text"], was["token_ids"])
            assert (now["text"], now["token_ids"]) == (before.pop("chosen"), before.pop("chosen_token_ids"))
            assert row == before
    assert 160 < number < 240, "more than four standard deviations from half"


def test_which_pairs_are_swapped_follows_from_the_seed():
    def places(seed: int) -> list[int]:
        return [place for place, row in enumerate(pairs(100).to_pylist()) if swapped(row, seed) != row]

    assert places(1) == places(1) != places(2)


def test_swapping_exchanges_the_reference_log_probabilities_too():
    for row in pairs(40).to_pylist():
        after = swapped(row | {"ref_logps": [-1.0, -2.0]}, seed=42)
        assert after["ref_logps"] == ([-1.0, -2.0] if after["chosen"] == row["chosen"] else [-2.0, -1.0])


# DeepSpeed


def test_stage_0_is_plain_data_parallel():
    assert deepspeed_config(Train(zero_stage=0)) is None


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_zero_stage_is_what_deepspeed_is_told_and_sizes_are_the_trainers(stage):
    told = deepspeed_config(Train(zero_stage=stage))
    assert told is not None
    assert told["zero_optimization"]["stage"] == stage
    assert told["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)
    assert {value for key, value in told.items() if key.startswith(("train_", "gradient_"))} == {"auto"}
    assert "optimizer" not in told, "an AdamW block would compile FusedAdam for minutes"
    assert told["bf16"] == {"enabled": "auto"}


@pytest.mark.parametrize(("stage", "weights"), [(1, None), (2, None), (3, "cpu")])
def test_deepspeed_understands_that_optimiser_states_and_under_zero_3_weights_are_kept_in_cpu_memory(stage, weights):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # which refuses what it does not know

    for offload in (True, False):
        told = deepspeed_config(Train(zero_stage=stage, offload=offload))
        assert told is not None
        understood = DeepSpeedZeroConfig(**told["zero_optimization"])
        devices = [part and part.device for part in (understood.offload_optimizer, understood.offload_param)]
        assert devices == (["cpu", weights] if offload else [None, None])
