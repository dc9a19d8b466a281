"""Groups of training workers in a study: what waits for room in the cluster is trained together.

A group takes tens of seconds to start, which is more than a small training takes. So when there is room for a group, it
is given its share of all that waits: half of it where there is room for two, and so on. Without GPUs there is one group
at a time: while it starts it is busy on more cores than its workers ask for.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.runtime import metrics
from seva_ray.stages.study.resource_requests import Lanes, ResourceRequest
from seva_ray.stages.training.train import Training, stop_if_diverged, train_all

GROUP = "group of training workers"
"""A resource of a machine without GPUs: it has one."""
GATHERING_S = 1.0
"""What comes within this time goes together."""
ENOUGH_PAIRS = 10_000
"""In a group: its start is then little of its time. A training that has as many by itself has a group of its own, so
that it is found again with its last checkpoint when the study was killed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What somebody waits for."""

    trainings: Sequence[Training]
    ended: "Future[None]" = field(default_factory=Future)

    @property
    def num_pairs(self) -> int:
        return sum(training.config.num_pairs or 0 for training in self.trainings)


class Groups:
    """Its methods may be called by many threads."""

    def __init__(
        self, store: Store, lanes: Lanes, claim: ResourceRequest, alone: Callable[..., AbstractContextManager[None]]
    ):
        """`claim`: of one group. `alone`: lets one thread at a time make what has those names."""
        self.store, self.lanes, self.claim, self.alone = store, lanes, claim, alone
        self.waiting: list[Wanted] = []
        self.num_ready = 0
        """Groups that have room, and no share yet."""
        self.changing = threading.Lock()

    def train(self, trainings: Sequence[Training]) -> list[Artifact]:
        """The policies. Raises: NothingLeft where one ended with numbers that are none; the others are there."""
        policies = [training.open(self.store) for training in trainings]
        if all(policy.complete for policy in policies):
            return [metrics.reused(policy) for policy in policies]
        mine = Wanted(trainings=trainings)
        with self.changing:
            self.waiting.append(mine)
        with self.lanes.hold(self.claim, "train"):
            if share := self.share(mine):
                self.run(share)
        mine.ended.result()
        policies = [training.open(self.store) for training in trainings]
        for policy in policies:
            stop_if_diverged(policy)
        return policies

    def share(self, mine: Wanted) -> list[Wanted]:
        """Of what waits, for a group that has room now: `mine` first. Empty where another group has taken that."""
        with self.changing:
            if mine not in self.waiting:
                return []
            self.num_ready += 1
        time.sleep(GATHERING_S)
        with self.changing:
            num_groups = self.num_ready + self.lanes.room(self.claim)
            self.num_ready -= 1
            if mine not in self.waiting:
                return []
            taken, most = [mine], math.ceil(len(self.waiting) / num_groups)
            for other in self.waiting:
                if len(taken) < most and other is not mine and sum(item.num_pairs for item in taken) < ENOUGH_PAIRS:
                    taken.append(other)
            self.waiting = [item for item in self.waiting if item not in taken]
            return taken

    def run(self, share: Sequence[Wanted]) -> None:
        """Where it fails, each by itself, so that the others have theirs."""
        trainings = {training.name: training for item in share for training in item.trainings}
        try:
            with self.alone(*trainings):
                train_all(self.store, list(trainings.values()))
        except Exception as error:
            if len(share) == 1:
                share[0].ended.set_exception(error)
                return
        else:
            for item in share:
                item.ended.set_result(None)
            return
        for item in share:
            self.run([item])
