"""Training on real workers: the same numbers however the work is shared, and a clear end where they are no numbers."""

import contextlib
import json
import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil
import pytest
import torch
from safetensors.torch import load_file

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import ConfigError, InputError, NothingLeft
from seva_ray.core.storage import exists, read_bytes
from seva_ray.dpo.config import Train
from seva_ray.dpo.methods import METHODS
from seva_ray.dpo.policy import Lora
from seva_ray.stages.training.group import check_training, group_size
from seva_ray.stages.training.train import train, train_all
from seva_ray.stages.training.training import Training
from seva_ray.vlm.models import model_at
from tests.small_run import VIEWS, SmallRun, scored

CONFIG = Train(
    dtype="float32",
    gradient_checkpointing=False,
    num_workers=1,
    per_device_batch_size=4,
    global_batch_size=8,
    num_pairs=18,  # the last step is filled up
    num_repeats=1,
    learning_rate=1e-3,
    zero_stage=0,
    lora=Lora(rank=4, alpha=8),
)


BFLOAT16 = replace(
    CONFIG, num_workers=2, per_device_batch_size=2, zero_stage=2, dtype="bfloat16", gradient_checkpointing=True
)


def log_of(run: SmallRun, name: str, config: Train) -> list[dict]:
    return read_log(train(config, run.store, name, run.model, run.pairs))


def read_log(policy: Artifact) -> list[dict]:
    return [row for row in json.loads(read_bytes(policy.path("log.json"))) if "loss" in row]


def training(run: SmallRun, name: str, config: Train) -> Training:
    return Training(config=config, name=name, model=run.model, pairs=run.pairs)


@pytest.fixture(scope="module")
def wild_and_alone(run: SmallRun) -> list[Artifact]:
    """One worker, without DeepSpeed, trains a policy that diverges, and then one that does not."""
    wild = replace(CONFIG, learning_rate=1e35, warmup_ratio=0.0)
    return train_all(run.store, [training(run, "wild", wild), training(run, "alone", CONFIG)])


@pytest.fixture(scope="module")
def alone(wild_and_alone: list[Artifact]) -> list[dict]:
    return read_log(wild_and_alone[1])


def workers() -> list[psutil.Process]:
    """The workers of a training that runs now."""
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


@contextmanager
def addresses_of_listeners() -> Iterator[set[str]]:
    """The addresses at which workers of the training in the block listen."""
    found: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            with contextlib.suppress(psutil.Error):  # a process has just ended
                for process in workers():
                    found.update(item.laddr.ip for item in process.net_connections("inet") if item.status == "LISTEN")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("stage", "offload"),
    [
        (3, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, False), (2, False), (2, True), (3, True)]),
    ],
)
def test_two_workers_under_any_zero_stage_lose_what_one_alone_loses_and_so_do_they_for_the_next_policy(
    run: SmallRun, alone: list[dict], stage: Literal[1, 2, 3], offload: bool
):
    config = replace(CONFIG, num_workers=2, per_device_batch_size=2, zero_stage=stage, offload=offload)
    config = replace(config, gradient_checkpointing=stage == 2)  # which changes no number either
    trainings = [training(run, f"zero{stage}{offload}{which}", config) for which in ("", "-next")]
    trainings.append(training(run, "bfloat16", BFLOAT16))  # of which the next test reads the log
    with addresses_of_listeners() as addresses:
        first, following, _ = train_all(run.store, trainings)
    assert addresses == {"127.0.0.1", "::ffff:127.0.0.1"}, "torch and Ray; all of it is on one machine"
    assert read_log(following)[-1]["loss"] == pytest.approx(read_log(first)[-1]["loss"], rel=1e-6)
    one, other = (load_file(f"{policy.path('adapter')}/adapter_model.safetensors") for policy in (first, following))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-7) for name in one)
    shared = read_log(first)
    assert [row["step"] for row in shared] == [1, 2, 3] == [row["step"] for row in alone]
    assert alone[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert abs(alone[-1]["loss"] - math.log(2)) > 1e-4, "nothing was learnt"
    split = [f"rewards/margins/{view}" for view in VIEWS]
    assert any(alone[-1][name] != alone[-1]["rewards/margins"] for name in split)
    for name in ("loss", "rewards/margins", *split, "logps/chosen", "drift/rejected", "tokens/rejected"):
        assert [row[name] for row in shared] == pytest.approx([row[name] for row in alone], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_the_two_forward_passes_of_image_terms_under_zero_2_lose_what_one_worker_alone_loses(run: SmallRun):
    config = replace(CONFIG, loss=METHODS["symmpo"].loss, gradient_checkpointing=True)
    one = log_of(run, "images", config)
    two = log_of(run, "images-zero2", replace(config, num_workers=2, per_device_batch_size=2, zero_stage=2))
    assert one[0]["loss"] == pytest.approx(4 * math.log(2), abs=1e-4)
    assert one[-1]["rewards/image_margins"] != 0
    for name in ("loss", "rewards/image_margins", "drift/chosen"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-4, abs=1e-5)


def test_in_bfloat16_it_starts_where_the_reference_is_and_learns_what_float32_does(run: SmallRun, alone: list[dict]):
    log = log_of(run, "bfloat16", BFLOAT16)
    for row in log[:2]:  # the learning rate of the first step is 0
        # Log-probabilities of -34 nats on average, which rounded to bfloat16 would be off by up to an eighth each.
        assert [row["drift/chosen"], row["drift/rejected"]] == pytest.approx([0, 0], abs=3e-3)
        assert row["loss"] == pytest.approx(math.log(2), abs=2e-4)
    assert log[0]["logps/chosen"] != alone[0]["logps/chosen"], "it was computed in float32"
    assert alone[-1]["rewards/margins"] > 0.05
    # Adam's first update is nearly the gradient's sign, which rounding turns where the gradient is small.
    assert log[-1]["rewards/margins"] == pytest.approx(alone[-1]["rewards/margins"], rel=0.25)
    assert log[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=0.01)


@pytest.mark.slow
def test_with_fewer_cpus_than_workers_it_starts_with_as_many_as_there_are_and_loses_the_same(run: SmallRun):
    elastic = replace(CONFIG, num_workers=4, min_workers=1, per_device_batch_size=2, global_batch_size=24)
    with pytest.raises(ConfigError, match="min_workers 1: with zero_stage 2"):
        replace(elastic, zero_stage=2)
    with pytest.raises(ConfigError, match="multiple of num_workers 3 x"):
        replace(elastic, global_batch_size=16)
    log = log_of(run, "elastic", elastic)
    fixed = log_of(run, "fixed", replace(elastic, num_workers=1, min_workers=None))
    assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in fixed], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_full_training_under_zero_3_changes_the_whole_language_model_and_nothing_else(run: SmallRun):
    config = replace(CONFIG, num_workers=2, per_device_batch_size=2, zero_stage=3, full=True)
    log = log_of(run, "full", config)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert log[-1]["rewards/margins"] > 0
    before, after = (
        load_file(f"{directory}/model.safetensors")
        for directory in (run.model.directory, run.store.uri("policies/full/model"))
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "language_model" in name}
    assert not exists(run.store.uri("policies/full/model/training_args.bin"))
    assert not exists(run.store.uri("policies/full/adapter"))
    model_at(run.store.uri("policies/full/model"))


@pytest.mark.slow
def test_a_run_goes_on_with_as_many_workers_as_wrote_its_checkpoints_though_there_is_room_for_more(run: SmallRun):
    config = replace(CONFIG, zero_stage=2, save_steps=1, max_failures=0)
    first = log_of(run, "begun", config)
    for name in ("log.json", "record.json"):  # as if it had been killed at its end
        Path(run.store.uri(f"policies/begun/{name}")).unlink()
    with pytest.raises(InputError, match=r"policies/begun/run: 1 workers .*--train.num-workers 1"):
        log_of(run, "begun", replace(config, num_workers=2))
    left_open = replace(config, num_workers=None)
    check_training(left_open, run.store, "begun")
    assert group_size(left_open, run.store.uri("policies/another")) == 2
    again = log_of(run, "begun", left_open)
    assert [row["loss"] for row in again] == [row["loss"] for row in first]


def test_training_that_diverges_ends_in_one_line_with_its_step_and_no_model(
    run: SmallRun, wild_and_alone: list[Artifact], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("seva_ray.stages.training.train.train_all", lambda store, trainings: wild_and_alone[:1])
    with pytest.raises(
        NothingLeft, match=r"policies/wild: (loss|grad_norm) is (nan|inf) at step [23];.*lower learning"
    ):
        log_of(run, "wild", CONFIG)
    assert not exists(run.store.uri("policies/wild/model"))
    assert not exists(run.store.uri("policies/wild/record.json"))


def test_training_that_fails_before_its_first_step_is_not_tried_again_and_leaves_the_name_free(
    run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(run.model.directory, tmp_path / "model")
    model = replace(run.model, directory=str(tmp_path / "model"))
    scored(CONFIG, run.store, model, run.pairs)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(Exception, match="header"):
        train(CONFIG, run.store, "broken", model, run.pairs)
    assert "starting again" not in capsys.readouterr().err
    assert not exists(run.store.uri("policies/broken"))


def test_a_tracker_that_is_not_installed_offload_without_sharding_and_a_negative_wait_are_config_errors():
    with pytest.raises(ConfigError, match="trackers wandb: not installed"):
        Train(trackers=("tensorboard", "wandb"))
    with pytest.raises(ConfigError, match="wait_s -1: must be at least 0"):
        Train(wait_s=-1)
    with pytest.raises(ConfigError, match="offload: needs a zero_stage"):
        Train(offload=True, zero_stage=0)


@pytest.mark.slow
def test_a_killed_worker_costs_time_and_nothing_else(run: SmallRun):
    config = replace(CONFIG, num_workers=2, per_device_batch_size=1, global_batch_size=2, num_repeats=4, zero_stage=2)
    config = replace(config, save_steps=5)
    uninterrupted = log_of(run, "whole", config)
    saved = Path(run.store.uri("policies/killed/run/checkpoint_manager_snapshot.json"))
    killed = []

    def kill() -> None:
        while not saved.exists():
            time.sleep(0.02)
        last = workers()[-1]
        last.kill()
        killed.append(last.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    log = log_of(run, "killed", config)
    killer.join(1)
    assert killed, "it was over before"
    assert [row["step"] for row in log] == [row["step"] for row in uninterrupted]
    for name in ("loss", "rewards/margins", "grad_norm", "learning_rate"):
        assert [row[name] for row in log] == pytest.approx([row[name] for row in uninterrupted], rel=1e-5, abs=1e-7)
