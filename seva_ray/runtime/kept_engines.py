"""kept_engines: a pool of engines that goes on when its units are answered, so that a job starts its engines once.

A pool is one run of Ray Data that has no end: its first task hands out what the driver puts on a list. The engines wait
between two generations of a job. If the next one asks for a model of the same architecture, they load its weights.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from seva_ray.core.ownership import before_waiting
from seva_ray.private.ray import free_memory
from seva_ray.runtime.actors import rows_of
from seva_ray.runtime.progress import say
from seva_ray.runtime.resources import Need, has_joined, no_place, node_types

TASKS_AT_ONCE = 64
"""Largest number of tasks that are taken from the list in one call."""


class ListLost(Exception):
    """The process that holds a pool's list of tasks has ended, and so has the pool."""


class TaskList:
    """The actor that holds a pool's tasks in the order in which the driver named them. They stay on the list, so that
    whoever hands them out can begin again after a failure."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.changed = asyncio.Event()

    async def add(self, tasks: Sequence[str]) -> None:
        self.tasks += tasks
        self.changed.set()

    async def after(self, number: int) -> list[str]:
        """The next tasks after the first `number`, as soon as there are any."""
        while len(self.tasks) <= number:
            self.changed.clear()
            await self.changed.wait()
        return self.tasks[number : number + TASKS_AT_ONCE]


def hand_out(batch: dict[str, Any], tasks: Any) -> Iterator[dict[str, Any]]:
    """The task of Ray Data that makes a row of each task on the list. It ends only with the pool. Raises: ListLost."""
    import ray

    number = 0
    while True:
        try:
            following = ray.get(tasks.after.remote(number))
        except ray.exceptions.RayActorError as error:
            raise ListLost from error
        for task in following:
            yield {"units": [task]}
            number += 1


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What a pool can do, and what it takes."""

    alike: Any
    """Equal for units that the same engines can answer."""
    encoding_memory: float
    """Memory that is requested to encode a task, in bytes."""
    engines: Need
    """What the engines take of the cluster."""
    most_tasks: int
    """Largest number of tasks that wait or are at work."""
    most_units: int
    """Units after which a new pool is better, because Ray Data keeps something about each."""

    def serves(self, other: "PoolSettings") -> bool:
        return self.alike == other.alike and self.encoding_memory >= other.encoding_memory


class Pool:
    """Engines that answer units, or wait for some."""

    def __init__(self, settings: PoolSettings, commits: Callable[[Any], Any]):
        """`commits` makes the dataset of committed units out of the dataset of tasks."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.settings, self.num_units = settings, 0
        # A pool ends with the machine of its list. So that is the driver's, with which the job ends anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.tasks = ray.remote(TaskList).options(num_cpus=0, scheduling_strategy=here).remote()

        def dataset() -> Any:
            import ray.data

            begin = ray.data.from_items([{"units": ""}])
            # If the machine of this task is lost, Ray starts the task again, and it begins at the top of the list.
            return commits(begin.map_batches(hand_out, batch_size=1, fn_kwargs={"tasks": self.tasks}, num_cpus=0))

        self.rows = rows_of(
            dataset,
            first="generate: waiting for an engine to load the model and answer the first unit",
            others="generate: waiting for the next unit",
            one_by_one=True,
        )

    def answered(self, tasks: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any]]:
        """The row of each unit, as soon as it is committed. `tasks`: each with its number of units. The next are drawn
        when few are at work."""
        to_come, num_open, most = iter(tasks), 0, 0
        while True:
            more: list[str] = []
            while 2 * num_open <= most or (more and num_open < most):
                if (task := next(to_come, None)) is None:
                    break
                more.append(task[0])
                num_open += task[1]
                most = most or self.settings.most_tasks * task[1]
            if more:
                self.tasks.add.remote(more)
            if not num_open:
                return
            row = next(self.rows)
            num_open -= 1
            self.num_units += 1
            yield row

    def close(self) -> None:
        """End the engines."""
        import ray

        try:
            self.rows.close()
        finally:
            if ray.is_initialized():  # otherwise it has ended with Ray, and to ask for it would start a new cluster
                ray.kill(self.tasks)


@dataclass(kw_only=True)
class Keeper:
    """A job's pool between two generations."""

    pool: Pool | None = None

    def let_go(self) -> None:
        pool, self.pool = self.pool, None
        if pool:
            pool.close()


keepers: list[Keeper] = []
"""The keeper of this process, if its job has one."""


@contextmanager
def kept_engines() -> Iterator[None]:
    """Within the block engines stay after they have answered all units, until they are in the way (`make_room`), or
    until this job waits for another one, whose engines may need their place."""
    keeper = Keeper()
    keepers.append(keeper)
    before_waiting.append(keeper.let_go)
    try:
        yield
    finally:
        before_waiting.remove(keeper.let_go)
        keepers.pop().let_go()


@contextmanager
def engines(settings: PoolSettings, commits: Callable[[Any], Any], num_units: int) -> Iterator[Pool]:
    """A pool for so many units: the one that is kept, if it can do that. After an error no pool is kept."""
    keeper = keepers[-1] if keepers else Keeper()
    kept = keeper.pool
    if kept and not (kept.settings.serves(settings) and kept.num_units + num_units <= settings.most_units):
        keeper.let_go()
    pool, keeper.pool = keeper.pool or Pool(settings, commits), None
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    keeper.pool = pool
    if not keepers:
        keeper.let_go()


def let_go() -> None:
    """Let the kept engines go."""
    for keeper in keepers:
        keeper.let_go()


def make_room(need: Need, memory: float = 0.0) -> None:
    """Let the kept engines go, unless this machine has room for `need` beside them. `memory`: what it takes of a
    machine without GPUs, in bytes.

    In a cluster that this job has joined, or of several nodes, they always go: an autoscaler ends nodes that nobody
    uses, and two jobs that keep their engines would wait for each other's places for ever.
    """
    for keeper in keepers:
        if not keeper.pool:
            continue
        types = node_types()
        shared = has_joined() or sum(item.number for item in types) > 1
        if shared or no_place((keeper.pool.settings.engines, need), types):
            keeper.let_go()
        elif memory > (free := free_memory()):
            say(
                f"generate: the engines end now, because the {need.what} take about {memory / 2**30:.1f} GiB of "
                f"memory and {max(0.0, free) / 2**30:.1f} are free; if answers are needed later, engines start again"
            )
            keeper.let_go()
