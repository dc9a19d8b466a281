"""part_drivers: many units are made by several drivers, so that the job's own driver has little to do for each.

Ray Data takes about 20 ms of its driver's CPU time for a unit, and keeps some kB of it. So the driver of the job deals
out parts of about a thousand units. For each part it gets back what became of it, as counts. An actor that dies is
started again by Ray with the part that it had; what was committed before is not made again.
"""

import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from seva_ray.augmentations import CLEAN, changes_image
from seva_ray.core.shards import read_each
from seva_ray.engines.config import Generate
from seva_ray.engines.counts import Counts, Totals, read_counts
from seva_ray.engines.units import ENGINES_PER_DRIVER, UNITS_PER_CALL, Unit, Units, is_committed
from seva_ray.runtime.actors import told
from seva_ray.runtime.cluster import join
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.kept_engines import kept_engines, let_go
from seva_ray.runtime.progress import Progress
from seva_ray.runtime.resources import capacity
from seva_ray.runtime.sizing import num_engines
from seva_ray.stages.engine_pool import answered, by_shard

UNITS_PER_PART = 1_000
"""Number of units in a part, if a shard has no more views than that."""

PARTS_AHEAD = 2
"""Parts that a driver has at once, so that its engines do not wait between two of them."""

Made = tuple[str, int, Totals]
"""The URI of an artifact of responses, how many of its units were made, and how their responses ended."""

Part = Sequence[Units]
"""Units of the same shards, for each artifact."""


def run_parts(config: Generate, missing: Sequence[Units]) -> Iterator[Made]:
    """Make the units part by part. Yield what was made of each part, once it is committed."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    join()
    let_go()  # each driver starts engines of its own
    # A driver of parts takes its engines with it when its machine is lost, so it is on the machine of the job's driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    given = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": PARTS_AHEAD}
    actor = ray.remote(PartDriver).options(scheduling_strategy=here, **given)
    parts = parts_of(missing)
    drivers = [actor.remote(share) for share in shares(config, num_engines(config, capacity()))]
    progress, num_responses = Progress("generate", sum(map(len, missing)), "units"), 0
    running: dict[Any, Any] = {}

    def begin(driver: Any) -> None:
        if part := next(parts, None):
            running[driver.make.remote(part)] = driver

    try:
        for driver in drivers * PARTS_AHEAD:
            begin(driver)
        while running:
            with waiting("generate: waiting for the next part of the units"):
                (done,), _ = ray.wait(list(running))
            of_part = ray.get(done)
            begin(running.pop(done))
            for uri, num_units, tally in of_part:
                num_responses += tally.numbers["num_responses"]
                progress.add(num_units, note=f", {num_responses:,} responses")
                yield uri, num_units, tally
    finally:
        for driver in drivers:
            ray.kill(driver)


def shares(config: Generate, most: int) -> list[Generate]:
    """The settings of each driver of parts. `most`: the engines of all together."""
    number = math.ceil(most / ENGINES_PER_DRIVER)
    least = config.min_engines
    return [
        replace(
            config,
            min_engines=max(1, least // number + (place < least % number)),
            max_engines=most // number + (place < most % number),
        )
        for place in range(number)
    ]


def parts_of(missing: Sequence[Units]) -> Iterator[Part]:
    """The units in parts. The units of one shard for one model are in one part, so that it is encoded once."""
    alike: dict[tuple[Any, ...], list[Units]] = {}
    for units in missing:
        like = units.like
        alike.setdefault((like.model_directory, like.prompts_uri, like.system, like.image_root), []).append(units)
    for group in alike.values():
        numbers = np.unique(np.concatenate([units.numbers for units in group]))
        step = max(1, UNITS_PER_PART // len(group))
        for begin in range(0, len(numbers), step):
            first, last = numbers[begin], numbers[min(begin + step, len(numbers)) - 1] + 1
            found = [units.between(first, last) for units in group]
            yield [units for units in found if len(units)]


def num_encoded(part: Part) -> int:
    """The largest number of images that are encoded for a shard of the part."""
    rows = max(units.like.num_rows for units in part)
    return rows * len({units.like.view if changes_image(units.like.view) else CLEAN for units in part})


@dataclass(kw_only=True)
class Begun:
    """A part that a driver is working on."""

    part: Part
    result: "Future[list[Made]]" = field(default_factory=Future)
    left: int = 0
    """Units that are not committed."""
    found: dict[str, tuple[int, Totals]] = field(default_factory=dict)
    """What was made, by the URI of its artifact."""

    def units(self, again: bool) -> list[Unit]:
        """The units to make. `again`: the actor has died, so some may be there."""
        every = [unit for units in self.part for unit in units]
        there = list(read_each(is_committed, every)) if again else [False] * len(every)
        self.left = len(every)
        for unit, is_there in zip(every, there, strict=True):
            if is_there:
                self.add(unit, read_counts(unit.responses_uri, unit.view))
        return [unit for unit, is_there in zip(every, there, strict=True) if not is_there]

    def add(self, unit: Unit, counts: Counts) -> None:
        uri, _, name = unit.responses_uri.rpartition("/")
        number, tally = self.found.get(uri, (0, Totals()))
        tally.add(name, counts)
        self.found[uri] = number + 1, tally
        self.left -= 1
        if not self.left:
            self.result.set_result([(uri, number, tally) for uri, (number, tally) in self.found.items()])


class PartDriver:
    """The actor that makes one part after the other with engines that stay. Its calls wait; one thread does the work,
    and takes the next part before all of the last is committed."""

    def __init__(self, config: Generate):
        self.config = config
        self.inbox: queue.SimpleQueue[Begun] = queue.SimpleQueue()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @told()
    def make(self, part: Part) -> list[Made]:
        begun = Begun(part=part)
        self.inbox.put(begun)
        return begun.result.result()

    def serve_forever(self) -> None:
        with kept_engines():
            following: Begun | None = None
            while True:
                following = self.serve(following or self.inbox.get())

    def serve(self, begun: Begun) -> Begun | None:
        """Make a part, and those that arrive meanwhile. Return the part that needs more memory to be encoded."""
        most, at_work, drawn = num_encoded(begun.part), deque([begun]), 0
        of_uri: dict[str, tuple[Begun, Unit]] = {}
        other: Begun | None = None

        def shards() -> Iterator[Sequence[Unit]]:
            nonlocal drawn, other
            following: Begun | None = begun
            while following and drawn < UNITS_PER_CALL:
                units = following.units(again=restarted())
                of_uri.update((unit.responses_uri, (following, unit)) for unit in units)
                drawn += len(units)
                yield from by_shard(units)
                following = self.arrived()
                if following and num_encoded(following.part) > most:
                    following, other = None, following
                if following:
                    at_work.append(following)

        try:
            for row in answered(self.config, begun.part[0][0], most, shards(), len(begun.part[0]), UNITS_PER_PART):
                of_part, unit = of_uri.pop(row["responses_uri"])
                of_part.add(unit, Counts.of(row["counts"]))
        except BaseException as error:
            for each in at_work:
                if not each.result.done():
                    each.result.set_exception(error)
        return other

    def arrived(self) -> Begun | None:
        try:
            return self.inbox.get_nowait()
        except queue.Empty:
            return None


def restarted() -> bool:
    """Whether this actor has taken the place of one that died."""
    import ray

    return ray.get_runtime_context().was_current_actor_reconstructed
