"""What the environment has of other trainings: settings of `accelerate launch`, or of scripts for an older Ray."""

import os
import subprocess
import sys
from argparse import Namespace

import pytest
from accelerate import Accelerator, DistributedType
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from seva_ray.private.accelerate import forget_launcher, forget_trainer
from tests.environment import pythonpath

FIRST_RAY_TRAIN = """
from seva_ray.runtime.cli import quiet

quiet()
import ray.train

ray.train.FailureConfig(max_failures=1, controller_failure_limit=-1)
"""


def test_a_training_takes_no_older_ray_train_from_the_environment():
    older = os.environ | {"PYTHONPATH": pythonpath(), "RAY_TRAIN_V2_ENABLED": "0"}
    subprocess.run([sys.executable, "-c", FIRST_RAY_TRAIN], env=older, check=True)


PLAIN = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "bf16"]
LAUNCHES = {
    "compiled": (prepare_multi_gpu_env, [*PLAIN, "--cpu", "--dynamo_backend", "inductor"]),
    "accumulated": (prepare_multi_gpu_env, [*PLAIN, "--cpu", "--gradient_accumulation_steps", "4"]),
    "sharded": (prepare_multi_gpu_env, [*PLAIN, "--use_fsdp"]),
    "deepspeed": (lambda args: prepare_deepspeed_cmd_env(args)[1], [*PLAIN, "--use_deepspeed", "--zero_stage", "3"]),
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_training_takes_no_settings_from_a_launcher_of_another_one(launch, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    environment, words = LAUNCHES[launch]
    args: Namespace = launch_command_parser().parse_args([*words, "train.py"])
    args, *_ = _validate_launch_command(args)
    args.deepspeed_fields_from_accelerate_config = ""  # accelerate sets it between the two
    given = environment(args)
    left = {name: value for name, value in given.items() if os.environ.get(name) != value}
    assert left["ACCELERATE_MIXED_PRECISION"] == "bf16"
    os.environ.update(left)
    forget_launcher()
    forget_trainer()
    made = Accelerator(cpu=True)
    try:
        assert (made.mixed_precision, made.gradient_accumulation_steps) == ("no", 1)
        assert (made.distributed_type, made.state.deepspeed_plugin) == (DistributedType.NO, None)
        assert made.state.dynamo_plugin.backend.value == "NO"
    finally:
        forget_trainer()
