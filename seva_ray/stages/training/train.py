"""train: pairs + starting model -> the artifact `policies/<name>`: a merged model, the training log, checkpoints.

Ray Train runs one worker per GPU (or CPU share), see worker.py. A run that was killed goes on from its last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray.train
import ray.train.torch

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import NothingLeft
from seva_ray.core.storage import exists, locate, read_bytes, remove
from seva_ray.dpo.config import Train
from seva_ray.pairs.files import lineage
from seva_ray.runtime import metrics
from seva_ray.runtime.cluster import join
from seva_ray.runtime.progress import log_relay, say
from seva_ray.runtime.resources import check_places, listed
from seva_ray.stages.training.node_wait import Waiting
from seva_ray.stages.training.reference import reading_of, reference, worker_need
from seva_ray.stages.training.scheduled import scheduled
from seva_ray.stages.training.worker import DIVERGED, LOG, Job, work
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class Training:
    """One policy to be made: `model`, aligned on pairs that were made from its responses."""

    config: Train
    name: str
    model: Model
    pairs: Artifact

    def open(self, store: Store) -> Artifact:
        recipe = {"train": self.config, "model": self.model.fingerprint}
        return store.open(f"policies/{self.name}", config=recipe, inputs=[self.pairs])


def train(config: Train, store: Store, name: str, model: Model, pairs: Artifact) -> Artifact:
    """Align `model` on the pairs that were made from its responses."""
    (policy,) = train_all(store, [Training(config=config, name=name, model=model, pairs=pairs)])
    stop_if_diverged(policy)
    return policy


def train_all(store: Store, trainings: Sequence[Training]) -> list[Artifact]:
    """Several policies, one after the other by one group of workers that starts once: they ask for equal groups.

    One that ended with numbers that are none stays incomplete: see `stop_if_diverged`.
    """
    policies = [training.open(store) for training in trainings]
    for policy in policies:
        if policy.complete:
            metrics.reused(policy)
    missing = [place for place, policy in enumerate(policies) if not policy.complete]
    if missing:
        join()
        check_workers(trainings[missing[0]].config)
        with log_relay() as relay:
            jobs = [job_of(store, trainings[place], policies[place], relay) for place in missing]
            # The last one's place: it stays the same while there is anything to go on with.
            try:
                for place in missing:
                    policies[place] = policies[place].begin()
                run_workers(jobs, policies[missing[-1]].uri)
            except Exception:
                if not any(has_checkpoint(policies[place]) for place in missing):
                    for place in missing:
                        policies[place].discard()
                raise
        for place, job in zip(missing, jobs, strict=True):
            if not exists(policies[place].path(DIVERGED)):
                policies[place] = policies[place].finish(counts_of(trainings[place], job))
    return policies


def has_checkpoint(policy: Artifact) -> bool:
    """Whether training would go on from something that it has written there."""
    filesystem, path = locate(policy.uri)
    return any("/checkpoint_" in name or name.endswith((f"/{LOG}", f"/{DIVERGED}")) for name in filesystem.find(path))


def check_training(config: Train, store: Store, name: str) -> None:
    """Before the stages before it. Raises: InputError where the policy is not there, and its workers have no place."""
    if not exists(store.uri(f"policies/{name}/record.json")):
        join()
        check_workers(config)


def check_workers(config: Train) -> None:
    """Raises: InputError where the cluster has no place for them."""
    check_places(("a training worker", fewest(config), worker_need()))


def fewest(config: Train) -> int:
    """Workers that training starts with, where there are no more."""
    return config.num_workers if config.min_workers is None else config.min_workers


def job_of(store: Store, training: Training, policy: Artifact, relay: Any) -> Job:
    config, pairs = training.config, training.pairs
    prompts, chosen, _ = lineage(store, pairs)
    logps = reference(config, store, training.model, pairs)
    remove(policy.path(DIVERGED))
    job = Job(
        config=config,
        pairs=scheduled(config, pairs, logps),
        reading=reading_of(training.model, prompts, chosen),
        packed=logps.counts["plain_because"] is None,
        views=tuple(pairs.counts["views"]) if len(pairs.counts["views"]) > 1 else (),
        policy_uri=policy.uri,
        relay=relay,
    )
    counts = counts_of(training, job)
    say(f"train {training.name}: {counts['num_pairs']:,} pairs, {counts['num_steps']:,} steps")
    return job


def counts_of(training: Training, job: Job) -> dict[str, Any]:
    return {
        "num_pairs": job.pairs.num_pairs,
        "num_steps": len(job.pairs.rows) // training.config.global_batch_size,
        "start": asdict(training.model),
    }


class Trainer(ray.train.torch.TorchTrainer):
    """Ray Train's, but Ctrl-C ends the job as it does everywhere else: Ray's own handler of the signal says nothing,
    and stays for the rest of the process."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Do nothing."""


def run_workers(jobs: Sequence[Job], uri: str) -> None:
    """A group of workers until all is done; it is started again, from the last checkpoint, when one is lost."""
    need, config = worker_need(), jobs[0].config
    use_gpu = "GPU" in need
    groups = {(job.config.num_workers, job.config.min_workers, job.config.max_failures) for job in jobs}
    assert len(groups) == 1, f"one group cannot be all of {groups}"
    trainer = Trainer(
        work,
        train_loop_config={"jobs": ray.put(list(jobs))},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers),
            use_gpu=use_gpu,
            resources_per_worker=need,
        ),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=uri,
            # A start that fails is the controller's failure: `Waiting` decides how long that may go on.
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=-1),
            callbacks=[
                Waiting(what=f"{fewest(config)} x ({listed(need)})", limit_s=config.wait_s, relay=jobs[0].relay)
            ],
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": {} if use_gpu else {"DS_ACCELERATOR": "cpu"}},
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
    )
    trainer.fit()


def stop_if_diverged(policy: Artifact) -> None:
    """Raises: NothingLeft where training ended with numbers that are none."""
    uri = policy.path(DIVERGED)
    if not policy.complete and exists(uri):
        raise NothingLeft(
            f"{policy.name}: {read_bytes(uri).decode()}; try a lower learning_rate, or dtype float32, under another "
            f"name or after removing {policy.uri}"
        )
