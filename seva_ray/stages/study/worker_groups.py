"""Groups of training workers in a study: a group trains a share of all that waits for training.

Starting a group takes tens of seconds, which is more than a small training takes. So when the cluster can hold a group,
the group gets a share of everything that waits: all of it if only one group fits, half of it if two fit, and so on.
Without GPUs one group runs at a time, because a group that starts uses more cores than its workers request.
"""

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.runtime import metrics
from seva_ray.stages.study.named_locks import NamedLocks
from seva_ray.stages.study.resource_queue import ResourceQueue, ResourceRequest
from seva_ray.stages.training.failures import stop_if_diverged
from seva_ray.stages.training.train import train_all
from seva_ray.stages.training.training import Training

GROUP = "group of training workers"
"""A resource that a machine without GPUs has one of, so that one group runs at a time."""
GATHERING_S = 3.0
"""Requests that arrive within this time are served together, in s. It is a tenth of what a group, or a pool of engines,
takes to start."""
ENOUGH_PAIRS = 10_000
"""A group with this many pairs takes no more trainings: its start is then little of its time. So a training with as
many pairs has a group of its own, which finds its last checkpoint again after the study was killed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRequest:
    """Trainings that one thread waits for: a policy for each seed of a point."""

    trainings: Sequence[Training]
    ended: "Future[None]" = field(default_factory=Future)

    @property
    def num_pairs(self) -> int:
        return sum(training.config.num_pairs or 0 for training in self.trainings)


class WorkerGroups:
    """Trainings that wait, and the threads that train them. Any thread may call `train`."""

    def __init__(self, store: Store, resources: ResourceQueue, request: ResourceRequest, locks: NamedLocks):
        """`request`: the resources of one group. `locks`: one for each policy, because two points may share it."""
        self.store, self.resources, self.request, self.locks = store, resources, request, locks
        self.waiting: list[TrainingRequest] = []
        self.num_ready = 0
        """Number of groups that have their resources and no share yet."""
        self.changing = threading.Lock()
        """Protects `waiting` and `num_ready`."""

    def train(self, trainings: Sequence[Training]) -> list[Artifact]:
        """The policies. The trial's thread runs this: it trains a share, or waits until another thread has trained it.

        Raises: NothingLeft if a loss is no longer finite; the other policies exist.
        """
        policies = [training.open(self.store) for training in trainings]
        if all(policy.complete for policy in policies):
            return [metrics.reused(policy) for policy in policies]
        mine = TrainingRequest(trainings=trainings)
        with self.changing:
            self.waiting.append(mine)
        with self.resources.hold(self.request, "train"):
            if share := self.take_share(mine):
                self.train_share(share)
        mine.ended.result()
        policies = [training.open(self.store) for training in trainings]
        for policy in policies:
            stop_if_diverged(policy)
        return policies

    def take_share(self, mine: TrainingRequest) -> list[TrainingRequest]:
        """The share of a group that has its resources now, `mine` first. It is empty if another group took `mine`."""
        with self.changing:
            if mine not in self.waiting:
                return []
            self.num_ready += 1
        time.sleep(GATHERING_S)
        with self.changing:
            num_groups = self.num_ready + self.resources.num_free(self.request)
            self.num_ready -= 1
            if mine not in self.waiting:
                return []
            taken, most = [mine], math.ceil(len(self.waiting) / num_groups)
            for other in self.waiting:
                if len(taken) < most and other is not mine and sum(item.num_pairs for item in taken) < ENOUGH_PAIRS:
                    taken.append(other)
            self.waiting = [item for item in self.waiting if item not in taken]
            return taken

    def train_share(self, share: Sequence[TrainingRequest]) -> None:
        """Trains all requests of a share in one group; if that fails, each alone, so that the others get theirs."""
        trainings = {training.name: training for request in share for training in request.trainings}
        try:
            with self.locks.hold(*trainings):
                train_all(self.store, list(trainings.values()))
        except Exception as error:
            if len(share) == 1:
                share[0].ended.set_exception(error)
                return
        else:
            for request in share:
                request.ended.set_result(None)
            return
        for request in share:
            self.train_share([request])
