"""Ray Train workers as the stage runs them, with a clock in their trainer: steps of one worker, and of two.

Each worker has one core, as Ray gives it. Forward and backward are the model's own; gradients' way between workers,
though a part of `backward`, is not counted among them, and neither are data, optimiser, callbacks and figures.
"""

import functools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import seva_ray.stages.training.train as stage
from bench.fresh import own_cluster
from bench.train_step import LORA, Case, rows_of
from bench.workload import LLAVA_SHAPED
from seva_ray.core.artifacts import Store
from seva_ray.core.storage import write_table
from seva_ray.dpo.config import Train
from seva_ray.dpo.order import Schedule
from seva_ray.runtime.log_relay import log_relay
from seva_ray.stages.training.reference import LOGPS_SCHEMA, Scoring, ScoringInput
from seva_ray.stages.training.scheduled import Scheduled
from seva_ray.stages.training.worker import TrainingJob

CASE = Case(num_tokens=25, num_rejected=1)
NUM_STEPS = 6
"""Number of steps at the start that are not counted, because the libraries start in them."""
GLOBAL_BATCH_SIZE = 4
stage_work = stage.work
COLLECTIVES = ("all_reduce", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast", "barrier")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Mean times over the counted steps of the first worker."""

    step_s: float
    model_s: float
    """Seconds in forward and backward."""

    @property
    def outside(self) -> float:
        return 1 - self.model_s / self.step_s


def steps_of(num_workers: int) -> Steps:
    """Measured in this process, which must be a fresh one: the stage's worker is replaced by one with a clock."""
    config = Train(
        lora=LORA,
        dtype="float32",
        gradient_checkpointing=False,
        num_workers=num_workers,
        per_device_batch_size=1,
        global_batch_size=GLOBAL_BATCH_SIZE,
        trackers=(),
        max_failures=0,
    )
    directory = LLAVA_SHAPED.model.directory
    stage.work = clocked_work
    with own_cluster(num_cpus=2), tempfile.TemporaryDirectory() as scratch:
        names = ("policies/bench", "pairs/bench", "logps/bench")
        artifact, pairs, logps = (Store(scratch).open(name, config={}) for name in names)
        schedule = pairs_in(pairs.path("shard-00000.parquet"), logps.path("shard-00000.parquet"))
        logps = logps.finish({"plain_because": None})
        with log_relay("train: waiting for the workers") as relay:
            job = TrainingJob(
                config=config,
                pairs=schedule,
                directory=directory,
                scoring=Scoring(
                    reading=ScoringInput(directory=directory, system="", image_root=None, max_image_pixels=10**7),
                    pairs=pairs,
                    logps=logps,
                    shards=[],
                    missing=[],
                ),
                views=(),
                policy_uri=artifact.uri,
                relay=relay,
            )
            stage.run_workers([job], artifact.uri)
        ends = json.loads(Path(artifact.path("clock.json")).read_text(encoding="utf-8"))
    (first_s, first_model_s), (last_s, last_model_s) = ends[1], ends[-1]
    counted = len(ends) - 2
    return Steps(step_s=(last_s - first_s) / counted, model_s=(last_model_s - first_model_s) / counted)


def pairs_in(uri: str, logps_uri: str) -> Scheduled:
    """Pairs of random tokens, which lie in files with their log-probabilities as those of the stage do."""
    rows = pa.Table.from_pylist(rows_of(CASE, GLOBAL_BATCH_SIZE * NUM_STEPS))
    write_table(uri, rows)
    write_table(logps_uri, rows.select(LOGPS_SCHEMA.names))
    order = Schedule(order=np.arange(len(rows)), step_size=GLOBAL_BATCH_SIZE, num_filling=0)
    first = np.zeros(1, np.int64)
    return Scheduled(files=[uri], starts=first, first_parts=first, order=order, num_pairs=len(rows))


def clocked_work(loop_config: dict[str, Any]) -> None:
    """The stage's worker; the first writes when each step ended, and the time in the model until then."""
    import deepspeed
    import ray
    import torch
    import transformers

    import seva_ray.stages.training.trainer as trainer

    model_s, ends, depth = 0.0, [], 0

    def timed(function: Callable, sign: int) -> Callable:
        """Add the function's time to the model's, or take it away where it is a part of that."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal model_s, depth
            if sign < 0 and not depth:
                return function(*args, **kwargs)
            began = time.perf_counter()
            depth += sign
            try:
                return function(*args, **kwargs)
            finally:
                depth -= sign
                model_s += sign * (time.perf_counter() - began)

        return call

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append((time.perf_counter(), model_s))

    class Clocked(trainer.PreferenceTrainer):
        def __init__(self, **arguments: Any):
            super().__init__(**arguments)
            self.add_callback(Clock)

    trainer.PreferenceTrainer = Clocked  # type: ignore[misc]
    trainer.response_logps = timed(trainer.response_logps, 1)
    deepspeed.DeepSpeedEngine.backward = timed(deepspeed.DeepSpeedEngine.backward, 1)
    for name in COLLECTIVES:
        setattr(torch.distributed, name, timed(getattr(torch.distributed, name), -1))
    stage_work(loop_config)
    if ray.train.get_context().get_world_rank() == 0:
        uri = ray.get(loop_config["jobs"])[0].policy_uri
        Path(uri, "clock.json").write_text(json.dumps(ends), encoding="utf-8")
