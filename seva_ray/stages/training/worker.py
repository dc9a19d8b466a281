"""A training worker: each process of a Ray Train group runs TRL's DPOTrainer over DeepSpeed, for one job at a time."""

import gc
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seva_ray.core.directories import write_directory
from seva_ray.core.durations import duration
from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import exists, is_local, write_bytes
from seva_ray.dpo.config import Train, deepspeed_config
from seva_ray.dpo.policy import freeze_all_but_language, load_onto, without_image_gradients
from seva_ray.private.accelerate import forget_launcher, forget_trainer
from seva_ray.private.deepspeed import skip_compiled_collectives
from seva_ray.private.transformers import forget_deepspeed
from seva_ray.runtime import metrics
from seva_ray.stages.training.failures import DIVERGED, explained
from seva_ray.stages.training.reading import NUM_COLLATORS, Kept, PairReader, Places, ReadAhead
from seva_ray.stages.training.reference import Group, Scoring, score
from seva_ray.stages.training.saving import POLICY, last_checkpoint, save_merged, save_whole, uploaded
from seva_ray.stages.training.scheduled import Scheduled
from seva_ray.stages.training.silence import ends_if_silent
from seva_ray.vlm.encoding import Encoder

LOG = "log.json"
"""The training log of a policy. It is written last, after all other files."""
MAX_LOGGED = 20_000
"""Largest number of lines in the training log. Each worker holds all of it, and every checkpoint has a copy. A longer
training logs means over several steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One policy to be trained. Every worker gets the same job."""

    config: Train
    pairs: Scheduled
    scoring: Scoring
    """The reference log-probabilities, which the workers complete before they train."""
    view_scoring: Scoring | None = None
    """The reference log-probabilities on the view of the loss's image terms; None if the loss has no such terms."""
    directory: str
    """The directory of the model that training starts from. The reference may be another one."""
    views: Sequence[str]
    """The rejected views, or empty if there is only one."""
    policy_uri: str
    relay: Any
    """The LogRelay to which workers send their progress."""


def work(loop_config: dict[str, Any]) -> None:
    """The work of one worker: the reference log-probabilities of all jobs, and then one job after the other, without
    those that an earlier group has finished."""
    import ray

    forget_launcher()
    with quick_imports():
        reports = [(job, reporter(job)) for job in ray.get(loop_config["jobs"])]
    left = [item for item in reports if not any(exists(f"{item[0].policy_uri}/{name}") for name in (LOG, DIVERGED))]
    for step in (score_reference, do):
        for job, report in left:
            try:
                step(job, report)
            except Exception as error:
                raise explained(error, job.config.trackers, report.stepped) from None
            forget()


def score_reference(job: TrainingJob, callback: Any) -> None:
    """Score the worker's share of the job's reference log-probabilities, unless they are complete."""
    import ray.train
    import ray.train.torch
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    job.relay.wait_for.remote("reference: loading the model and scoring the pairs")
    group = Group(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        device=str(ray.train.torch.get_device()),
        agreed=broadcast_from_rank_zero,
        say=job.relay.send.remote,
    )
    for scoring in filter(None, (job.scoring, job.view_scoring)):
        score(scoring, job.config, group)


def forget() -> None:
    """Forget the trainer that has ended, so that the next one starts like the first."""
    forget_deepspeed()
    forget_trainer()
    gc.collect()


def do(job: TrainingJob, callback: Any) -> None:
    """Run the trainer for one job, with a `reporter`. Rank 0 writes the merged model and the log."""
    job.relay.wait_for.remote("train: loading the model")
    import ray.train
    import ray.train.torch
    import torch

    config, rank = job.config, ray.train.get_context().get_world_rank()
    directory = local_directory(job.directory)
    encoder = Encoder(directory, job.scoring.reading.system, job.scoring.reading.image_options)
    if not torch.cuda.is_available():
        skip_compiled_collectives()
    with scratch_directory("seva-train-") as scratch:
        curves = f"{job.policy_uri}/tensorboard" if is_local(job.policy_uri) else f"{scratch}/tensorboard"
        os.environ["TENSORBOARD_LOGGING_DIR"] = curves
        with quick_imports():
            # Under ZeRO-3 a GPU never holds all weights.
            device = "cpu" if config.zero_stage == 3 else str(ray.train.torch.get_device())
            model = load_onto(device, directory, config.dtype)
            without_image_gradients(model)
            if config.full:
                freeze_all_but_language(model, exact=not config.zero_stage)
            trainer = trainer_of(job, model, encoder, scratch, callback)
        with ends_if_silent(
            config.silent_s, lambda: max(trainer.computed_at, callback.computed_at), job.relay.send.remote
        ):
            trainer.train(resume_from_checkpoint=last_checkpoint(job.policy_uri, scratch))
        if callback.diverged:
            if rank == 0:
                write_bytes(f"{job.policy_uri}/{DIVERGED}", callback.diverged.encode())
            await_uploads()
            return
        doing = "gathering the weights" if config.full else "merging the adapter into the model"
        job.relay.wait_for.remote(f"train: {doing}")
        merged = (save_whole if config.full else save_merged)(trainer, directory)
        if rank == 0:
            job.relay.wait_for.remote("train: writing the model")
            write_directory(f"{job.policy_uri}/model", merged)
            if not config.full:
                write_directory(f"{job.policy_uri}/adapter", f"{scratch}/adapter")
            if os.path.isdir(curves) and not is_local(job.policy_uri):
                write_directory(f"{job.policy_uri}/tensorboard", curves)
            write_bytes(f"{job.policy_uri}/{LOG}", json.dumps(trainer.state.log_history).encode())
        await_uploads()


def trainer_of(job: TrainingJob, model: Any, encoder: Encoder, scratch: str, callback: Any) -> Any:
    """The trainer of this worker, which writes its checkpoints under the local directory `scratch`."""
    import ray.train
    import torch
    import transformers
    import trl

    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.on_view import with_view
    from seva_ray.stages.training.trainer import PreferenceTrainer

    config, reading, context = job.config, job.scoring.reading, ray.train.get_context()
    assert config.per_device_batch_size is not None, "the driver has chosen one"
    rows_at_once = context.get_world_size() * config.per_device_batch_size
    # A processor or tokenizer is used by one thread at a time.
    more = range(1, NUM_COLLATORS if torch.cuda.is_available() else 1)
    encoders = [encoder, *(Encoder(encoder.directory, reading.system, reading.image_options) for _ in more)]
    collates = [
        PreferenceCollator(
            viewer=reading.viewer(encoder),
            packed=job.scoring.is_packed,
            by_image=config.group_by_image,
            views=job.views,
        )
        for encoder in encoders
    ]
    view_uri = job.view_scoring.logps.uri if job.view_scoring else None
    trainer = PreferenceTrainer(
        config=config,
        views=job.views,
        model=model,
        args=trl.DPOConfig(
            output_dir=scratch,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup_ratio,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            num_train_epochs=1,
            per_device_train_batch_size=config.per_device_batch_size,
            gradient_accumulation_steps=config.global_batch_size // rows_at_once,
            seed=config.seed,
            bf16=config.dtype == "bfloat16",
            gradient_checkpointing=config.gradient_checkpointing,
            deepspeed=deepspeed_config(config),
            use_cpu=not torch.cuda.is_available(),
            max_length=None,
            remove_unused_columns=False,
            precompute_ref_log_probs=config.full,  # otherwise TRL would load a second model as the reference
            logging_steps=1 + job.pairs.order.num_steps // MAX_LOGGED,
            logging_nan_inf_filter=False,
            save_steps=config.save_steps,
            report_to=list(config.trackers) if context.get_world_rank() == 0 else "none",
            disable_tqdm=True,
        ),
        train_dataset=Places(len(job.pairs.order)),
        processing_class=encoder.processor,
        data_collator=ReadAhead(
            PairReader(
                pairs=job.pairs,
                logps_uri=job.scoring.logps.uri,
                view_logps_uri=view_uri,
                config=config,
                kept=Kept(),
            ),
            rows_at_once,
            *(with_view(collate, config.loss) for collate in collates),
        ),
        peft_config=None if config.full else config.lora.peft(model),
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def await_uploads() -> None:
    """Wait until Ray Train has uploaded all checkpoints. They lie in a directory that is removed after this."""
    import ray.train

    ray.train.get_all_reported_checkpoints(ray.train.CheckpointConsistencyMode.COMMITTED)


def reporter(job: TrainingJob) -> Any:
    """A callback that reports the steps and hands each checkpoint to Ray Train."""
    import ray.train
    import transformers

    class Reporter(transformers.TrainerCallback):
        started = 0.0
        first_step = 0
        diverged = ""
        stepped = False
        """Whether a step was trained."""
        noticed = False
        saved: float | None = None
        computed_at = 0.0
        """When a checkpoint was last handed on, on the monotonic clock, in s; infinite while it is."""

        def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            self.started, self.first_step = time.monotonic(), state.global_step
            job.relay.wait_for.remote(f"train: working on step {state.global_step + 1}/{state.max_steps}")
            if state.global_step and state.is_world_process_zero:
                job.relay.send.remote(f"train: resumed at step {state.global_step}/{state.max_steps}")

        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            self.stepped = True
            if not self.noticed and ray.train.get_preemption_info() is not None:  # a node will soon be taken away
                self.noticed = control.should_save = True

        def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
            step, last = state.global_step, state.max_steps
            for name in ("loss", "grad_norm"):
                if not math.isfinite((logs or {}).get(name, 0.0)):
                    self.diverged = f"{name} is {logs[name]} at step {step}; the last checkpoint before it is kept"
                    control.should_training_stop, control.should_save = True, False
            if state.is_world_process_zero:
                job.relay.wait_for.remote(f"train: working on step {min(step + 1, last)}/{last}")
                metrics.trained(job.policy_uri, (logs or {}).get("rewards/margins"), self.saved)
            if not state.is_world_process_zero or "loss" not in (logs or {}) or (step % 10 and step != last):
                return
            left = (time.monotonic() - self.started) / (step - self.first_step) * (last - step)
            job.relay.send.remote(
                f"train: step {step}/{last}, loss {logs['loss']:.4f}, margin {logs['rewards/margins']:.3f}, "
                f"accuracy {logs['rewards/accuracies']:.2f}, {duration(left)} left"
            )

        def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            Path(path, POLICY).write_text(job.policy_uri, encoding="utf-8")
            self.saved, self.computed_at = time.time(), math.inf
            ray.train.report(
                {"step": state.global_step, **state.log_history[-1]},
                checkpoint=ray.train.Checkpoint.from_directory(path),
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,  # this also removes the local copy
                checkpoint_upload_fn=uploaded,
            )
            self.computed_at = time.monotonic()

    return Reporter()
