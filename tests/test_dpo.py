"""Training without a cluster: its configuration, which pairs it takes, what DeepSpeed is told."""

from dataclasses import replace

import pyarrow as pa
import pytest

from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import identity
from seva_ray.core.records import PAIR_SCHEMA, table
from seva_ray.dpo.config import (
    Train,
    by_key,
    choose,
    deepspeed_config,
    lengths_of,
    num_response_tokens,
    schedule,
    swapped,
)

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
        Train(global_batch_size=7)
    with pytest.raises(ConfigError, match=r"^global_batch_size 128: must be a multiple of min_workers 3 x per_device"):
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


def ids(rows: pa.Table) -> list[str]:
    return rows["prompt_id"].to_pylist()


def chosen_ids(everything: pa.Table, config: Train) -> list[str]:
    return [ids(everything)[place] for place in choose(ids(everything), config)]


def test_all_pairs_are_taken_once_unless_fewer_are_wanted():
    everything = pairs(50)
    for number in (None, 50, 1000):
        assert sorted(chosen_ids(everything, Train(num_pairs=number))) == sorted(ids(everything))


def test_a_smaller_set_is_part_of_a_larger_one():
    everything = pairs(200)
    sets = [set(chosen_ids(everything, Train(num_pairs=number))) for number in (1, 10, 100, 150)]
    assert [len(each) for each in sets] == [1, 10, 100, 150]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_a_set_grows_with_new_pairs_only_where_they_come_first():
    """More pairs in the pool may replace some of a set, but never reorder what stays."""
    small, large = (chosen_ids(pairs(number), Train(num_pairs=50)) for number in (100, 200))
    stayed = [each for each in large if each in small]
    assert stayed == [each for each in small if each in large]


def test_which_pairs_and_their_order_do_not_depend_on_the_rows_order():
    everything = pairs(100)
    backwards = everything.take(pa.array(range(99, -1, -1)))
    assert chosen_ids(backwards, Train(num_pairs=40)) == chosen_ids(everything, Train(num_pairs=40))


def test_another_seed_takes_other_pairs():
    one, other = (set(chosen_ids(pairs(200), Train(num_pairs=50, seed=seed))) for seed in (1, 2))
    assert one != other


def test_keys_are_ordered_as_the_numbers_that_they_are():
    keys = [256**power * times for power in (0, 1, 7, 8, 14, 15) for times in (255, 128, 127, 1)] + [0, 2**128 - 1]
    assert by_key(keys, len(keys)).tolist() == sorted(range(len(keys)), key=keys.__getitem__)


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


# The order of training


def steps(config: Train, everything: pa.Table) -> list[list[dict]]:
    """Rows, each with its weight."""
    rows = everything.to_pylist()
    places, weights = schedule(ids(everything), lengths_of(everything), config)
    found = [rows[place] | {"weight": weight} for place, weight in zip(places, weights.tolist(), strict=True)]
    return [found[start : start + config.global_batch_size] for start in range(0, len(found), config.global_batch_size)]


def of_size(size: int, **values: object) -> Train:
    return Train(global_batch_size=size, num_workers=1, per_device_batch_size=1, **values)  # type: ignore[arg-type]


def test_every_pair_is_seen_as_often_as_wanted_and_the_last_step_is_filled_up_with_pairs_that_do_not_count():
    found = steps(of_size(8, num_repeats=2), pairs(15))
    assert [len(step) for step in found] == [8] * 4
    seen = [row["prompt_id"] for step in found for row in step if row["weight"]]
    assert sorted(seen) == sorted(2 * [f"p{index}" for index in range(15)])
    assert [sum(row["weight"] > 0 for row in step) for step in found] == [8, 8, 8, 6]
    assert all(sum(row["weight"] for row in step) == pytest.approx(8) for step in found), "each step's loss is a mean"


def test_the_order_is_shuffled_by_the_seed_and_does_not_depend_on_the_rows_order():
    def ids_of(config: Train, everything: pa.Table) -> list[set[str]]:
        return [{row["prompt_id"] for row in step} for step in steps(config, everything)]

    expected = ids_of(of_size(8), pairs(64))
    assert ids_of(of_size(8), pairs(64)) == expected
    assert ids_of(of_size(8, seed=7), pairs(64)) != expected
    assert ids_of(of_size(8), pairs(64).take(pa.array(range(63, -1, -1)))) == expected


def test_the_order_stays_what_it_was_so_that_a_run_begun_by_an_earlier_version_goes_on():
    found = steps(of_size(4, num_pairs=5), pairs(9))
    assert [[row["prompt_id"] for row in step] for step in found] == [
        ["p2", "p5", "p7", "p5"],
        ["p7", "p0", "p6", "p0"],
        ["p6", "p2", "p6", "p6"],
    ]


def test_pairs_of_one_length_stand_together_within_a_step():
    rows = pairs(64).to_pylist()
    for index, row in enumerate(rows):
        row["chosen_token_ids"] = [1] * (index % 7)
    for step in steps(of_size(16, num_repeats=1), table(rows, PAIR_SCHEMA)):
        lengths = [
            len(row["question"]) + len(row["chosen_token_ids"]) + len(row["rejected"][0]["token_ids"]) for row in step
        ]
        assert lengths == sorted(lengths)


def test_tokens_are_counted_in_every_chunk_of_pairs_whatever_their_number_of_rejected_responses():
    rows = pairs(60).to_pylist()
    for index, row in enumerate(rows):
        row["chosen_token_ids"] = [1] * (index % 5)
        row["rejected"] = [{"view": "v", "text": "", "token_ids": [1] * ((index + k) % 4)} for k in range(index % 3)]
    whole = table(rows, PAIR_SCHEMA)
    chunks = pa.concat_tables([whole.slice(0, 13), whole.slice(13, 0), whole.slice(13, 1), whole.slice(14)])
    counted = [len(row["chosen_token_ids"]) + sum(len(item["token_ids"]) for item in row["rejected"]) for row in rows]
    assert num_response_tokens(whole).tolist() == counted
    assert num_response_tokens(chunks).tolist() == counted
    assert num_response_tokens(whole.slice(7, 20)).tolist() == counted[7:27]
    assert num_response_tokens(whole.slice(0, 0)).tolist() == []


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
