"""train: pairs + starting model -> the artifact `policies/<name>`: a merged model, the training log, checkpoints.

Ray Train runs one worker per GPU (or per CPU), see worker.py. A run that was killed continues from its last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.outlines import local_outline
from seva_ray.core.ownership import owned, owned_until
from seva_ray.core.recipe_files import RECORD
from seva_ray.core.storage import exists, files_in, remove, write_bytes
from seva_ray.dpo.config import Train
from seva_ray.private.ray import (
    controller_settings,
    restart_callback,
    start_callback,
    torch_config,
    trainer,
)
from seva_ray.runtime import metrics
from seva_ray.runtime.cluster import join
from seva_ray.runtime.kept_engines import make_room
from seva_ray.runtime.log_relay import log_relay
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import check_policy, to_be_made
from seva_ray.runtime.resources import Need, is_one_node, listed
from seva_ray.stages.training.failures import DIVERGED, stop_if_diverged, stop_if_unavailable
from seva_ray.stages.training.group import (
    NUM_WORKERS,
    check_memory,
    check_workers,
    fewest,
    group_size,
    memory_on_cpus,
    sized,
    worker_need,
)
from seva_ray.stages.training.node_wait import Waiting
from seva_ray.stages.training.retries import Retries
from seva_ray.stages.training.scheduled import scheduled
from seva_ray.stages.training.training import Training
from seva_ray.stages.training.worker import LOG, TrainingJob, work
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import Model

UNCHANGED = "num_unchanged_expert_weights"
"""The count of a policy that says how many weights of experts its adapter leaves as they were."""


def train(
    config: Train, store: Store, name: str, model: Model, pairs: Artifact, reference: Model | None = None
) -> Artifact:
    """Align `model` on the pairs that were made from its responses. `reference`: that of DPO, if it is another one."""
    training = Training(config=config, name=name, model=model, pairs=pairs, reference=reference)
    (policy,) = train_all(store, [training])
    stop_if_diverged(policy)
    return policy


def train_all(store: Store, trainings: Sequence[Training]) -> list[Artifact]:
    """Train several policies, one after the other, with one group of workers. All must ask for an equal group.

    A policy whose training diverged (nan or infinite numbers) stays incomplete; see `stop_if_diverged`.
    """
    missing = [training for training in trainings if not training.open(store).complete]
    logps = [training.open_logps(store) for training in missing]
    logps += [training.open_logps(store, on_view=True) for training in missing if training.config.loss.reads_view]
    unscored = [artifact for artifact in logps if not artifact.complete]

    def all_scored() -> bool:
        return all(exists(artifact.path(RECORD)) for artifact in unscored)

    with (
        owned(store.root, [training.open(store).name for training in missing]),
        owned_until(store.root, [artifact.name for artifact in unscored], all_scored),
    ):
        return train_all_alone(store, trainings)


def train_all_alone(store: Store, trainings: Sequence[Training]) -> list[Artifact]:
    """The same as `train_all`, while no other job trains any of these policies or scores their pairs."""
    policies = [training.open(store) for training in trainings]
    for place, policy in enumerate(policies):
        if policy.complete:
            policies[place] = metrics.reused(with_start(policy, trainings[place].model))
        else:
            check_policy(policy)
            policies[place] = to_be_made(policy)
    missing = [place for place, policy in enumerate(policies) if not policy.complete]
    if missing:
        join()
        # The group's checkpoints are stored with the last missing policy, which is the same one in every try.
        uri = policies[missing[-1]].uri
        check_workers(trainings[missing[0]].config, uri)
        workers = Need("training workers", group_size(trainings[missing[0]].config, uri), worker_need())
        of_models = [(trainings[place].config, trainings[place].model.directory, uri) for place in missing]
        make_room(workers, max(memory_on_cpus(*each) for each in of_models))
        for each in of_models:
            check_memory(*each)
        with log_relay("train: waiting for the workers to start") as relay:
            jobs = [job_of(store, trainings[place], policies[place], relay, uri) for place in missing]
            try:
                for place in missing:
                    policies[place] = policies[place].begin()
                run_workers(jobs, uri)
            except Exception:
                if not any(has_checkpoint(policies[place]) for place in missing):
                    for place in missing:
                        policies[place].discard()
                raise
        for place, job in zip(missing, jobs, strict=True):
            if not exists(policies[place].path(DIVERGED)):
                policies[place] = policies[place].finish(counts_of(trainings[place], job))
    return policies


def with_start(policy: Artifact, start: Model) -> Artifact:
    """The policy, whose record says where its starting model is now: reports and later stages read it there."""
    return policy if Model(**policy.counts["start"]) == start else policy.with_counts(start=asdict(start))


def has_checkpoint(policy: Artifact) -> bool:
    """Whether training has written anything for this policy that it could continue from."""
    names = files_in(policy.uri)
    return any("/checkpoint_" in name or name in (LOG, DIVERGED) for name in names)


def job_of(store: Store, training: Training, policy: Artifact, relay: Any, group_uri: str = "") -> TrainingJob:
    """The job of the workers. `group_uri`: the policy that the group's checkpoints are stored with."""
    training = replace(training, config=sized(training.config, training.model.directory, group_uri))
    config, pairs = training.config, training.pairs
    remove(policy.path(DIVERGED))
    job = TrainingJob(
        config=config,
        pairs=scheduled(config, pairs),
        scoring=training.scoring(store),
        view_scoring=training.scoring(store, on_view=True) if config.loss.reads_view else None,
        directory=training.model.directory,
        views=tuple(pairs.counts["views"]) if len(pairs.counts["views"]) > 1 else (),
        policy_uri=policy.uri,
        relay=relay,
    )
    counts = counts_of(training, job)
    for each in filter(None, (job.scoring, job.view_scoring)):
        if each.missing:
            about = "" if each.image_view is None else f", on the view {each.image_view or 'of the rejected answer'}"
            say(f"reference {pairs.name.removeprefix('pairs/')}{about}: {len(each.missing):,} shards to do")
    say(f"train {training.name}: {counts['num_pairs']:,} pairs, {counts['num_steps']:,} steps")
    if UNCHANGED in counts:
        say(
            f"train {training.name}: the adapter does not change the {counts[UNCHANGED]:,} weights of the experts; "
            "--train.lora.experts would"
        )
    return job


def counts_of(training: Training, job: TrainingJob) -> dict[str, Any]:
    counts = {
        "num_pairs": job.pairs.num_pairs,
        "num_steps": job.pairs.order.num_steps,
        "start": asdict(training.model),
    }
    num_experts, config = shape_of(local_outline(training.model.directory)).num_expert_weights, training.config
    if config.lora.experts and not num_experts and not config.full:
        raise InputError(f"train.lora.experts: model {training.model.directory} has no experts")
    return counts | ({UNCHANGED: num_experts} if num_experts and not config.full and not config.lora.experts else {})


def run_workers(jobs: Sequence[TrainingJob], uri: str) -> None:
    """Run a group of workers until all jobs are done. If a worker is lost, the group starts again from the last
    checkpoint."""
    import ray.train.torch  # with torch and Ray Data: seconds that a job's start would pay

    from seva_ray.core.patient_filesystem import storage_for_ray
    from seva_ray.runtime.rendezvous import join_group, open_store

    need, config = worker_need(), jobs[0].config
    use_gpu = "GPU" in need
    number, least = group_size(config, uri), fewest(config, uri)
    write_bytes(f"{uri}/{NUM_WORKERS}", str(number).encode())
    waiting = Waiting(what=f"{least} workers with {listed(need)} each", limit_s=config.wait_s, relay=jobs[0].relay)
    retries = Retries(relay=jobs[0].relay, limit=config.max_failures)
    groups = {(job.config.num_workers, job.config.min_workers, job.config.max_failures) for job in jobs}
    assert len(groups) == 1, f"one group cannot be all of {groups}"
    alone = is_one_node()
    settings = controller_settings(poll_s=min(2.0, 0.1 * number), one_node=alone)
    training = trainer(
        work,
        one_node=alone,
        train_loop_config={"jobs": ray.put(list(jobs))},
        scaling_config=ray.train.ScalingConfig(
            num_workers=number if config.min_workers is None else (config.min_workers, number),
            use_gpu=use_gpu,
            resources_per_worker=need,
        ),
        run_config=ray.train.RunConfig(
            name="run",
            **storage_for_ray(uri),
            # A failed start counts as a failure of the controller. `Waiting` decides how long it may try again.
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=-1),
            callbacks=[settings, restart_callback(retries.notice), start_callback(waiting.notice)],
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": {} if use_gpu else {"DS_ACCELERATOR": "cpu"}},
        ),
        torch_config=torch_config("nccl" if use_gpu else "gloo", open_store, join_group),
    )
    try:
        training.fit()
    except Exception as error:
        stop_if_unavailable(error, uri)
        raise
