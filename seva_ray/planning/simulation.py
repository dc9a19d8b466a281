"""A pool of engines at work, as discrete events: nodes come, are preempted and come again; units are done and lost.

In: units of work and what the cluster is like. Out: when the last unit is committed, and what that took. No clock and
no Ray: the same arguments give the same numbers.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from seva_ray.core.checks import check_least, check_shares
from seva_ray.core.errors import ConfigError
from seva_ray.core.seeds import generator

MOST_ATTEMPTS = 1000.0
"""Largest expected number of attempts for a unit; with more, neither the run nor its simulation would end."""

Units = Sequence[tuple[int, int]]
"""(number of units, rows of each unit), in the order in which they are handed out."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong in a cluster. By default, nothing does."""

    arrival_s: float = 0.0
    """Mean wait for a node in s, exponentially distributed, at the start and again after each preemption."""
    preemptions_per_hour: float = 0.0
    """Mean number of preemptions of each node per hour, exponentially distributed."""
    preempted_at_s: tuple[float, ...] = ()
    """Times in s from the start at which nodes are also preempted: the first node at the first time, and so on."""
    unit_spread: float = 0.0
    """Standard deviation of the time that a unit takes, divided by its mean; the times are lognormal."""
    slow_share: float = 0.0
    """Share of the nodes that are slow."""
    slow_factor: float = 1.0
    """How many times longer a slow node takes for a unit."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        check_least(self, 0, "arrival_s", "preemptions_per_hour", "unit_spread", "seed", finite=True)
        check_shares(self, "slow_share")
        check_least(self, 1, "slow_factor", finite=True)


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The engines that work, and their nodes."""

    num_nodes: int
    engines_per_node: int
    rows_per_s: float
    """Rows per second of one engine."""
    start_s: float = 0.0
    """Time from a node's arrival until its engines are ready, in s."""
    units_ahead: int = 4
    """Units that an engine holds at once, including the one it works on. No other engine takes them from it."""
    units_per_s: float | None = None
    """Largest number of units committed per second by all engines together; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """What the run took. Seconds of engines are sums over all engines."""

    wall_s: float
    """Time from the request for nodes to the last commit."""
    engine_s: float
    """Time from the arrival of each engine's node on: this time is paid for."""
    useful_s: float
    """Time spent on units that were committed."""
    lost_s: float
    """Time spent on units that were lost in a preemption."""
    num_units: int
    num_redone: int
    num_preemptions: int
    num_starts: int
    """Number of nodes that arrived."""

    @property
    def utilisation(self) -> float:
        return self.useful_s / self.engine_s if self.engine_s else 0.0


@dataclass(frozen=True)
class Life:
    """A node from its arrival to its preemption."""

    arrival: float
    end: float


class Node:
    """One place in the cluster: when its node is lost, another node is requested."""

    def __init__(self, number: int, faults: Faults):
        self.faults = faults
        self.draws = exponentials(faults.seed, number)
        first = self.next_life(0.0)
        at = faults.preempted_at_s[number] if number < len(faults.preempted_at_s) else math.inf
        self.lives = [Life(first.arrival, at) if first.arrival < at < first.end else first]

    def next_life(self, asked: float) -> Life:
        arrival = asked + next(self.draws) * self.faults.arrival_s
        per_hour = self.faults.preemptions_per_hour
        return Life(arrival, arrival + 3600 * next(self.draws) / per_hour if per_hour else math.inf)

    def life_at(self, time: float) -> Life:
        """The first life that lasts beyond `time`."""
        while self.lives[-1].end <= time:
            self.lives.append(self.next_life(self.lives[-1].end))
        return next(life for life in self.lives if life.end > time)


@dataclass(slots=True)
class SimulatedEngine:
    """An engine of the simulation: what it holds, and what it does."""

    node: Node
    s_per_row: float
    life: Life
    held: list[int] = field(default_factory=list)
    """The rows of each unit that it holds; it works on the first unit."""
    began: float | None = None
    """When it began to work on that unit; None if it works on no unit."""
    fresh: bool = True
    """Whether it has not been ready yet."""


class Queue:
    """Units that no engine holds."""

    def __init__(self, units: Units):
        self.runs = deque([count, rows] for count, rows in units if count)
        self.returned: list[int] = []
        """Rows of the units that a preemption gave back; they are handed out first."""
        self.num_left = sum(count for count, _ in units)

    def take(self) -> int:
        self.num_left -= 1
        if self.returned:
            return self.returned.pop()
        run = self.runs[0]
        run[0] -= 1
        if not run[0]:
            self.runs.popleft()
        return run[1]

    def give_back(self, units: Sequence[int]) -> None:
        self.returned += units
        self.num_left += len(units)


def simulate(units: Units, crew: Crew, faults: Faults) -> SimulatedRun:
    """Simulates the engines until all units are committed. It takes about 2 s of CPU time for each million units,
    whatever the number of nodes.

    An engine works on one unit after the other at its full rate: two units overlap in it to keep its batch full, which
    does not make it faster. A unit that waits for its commit stops its engine.

    Raises: ConfigError if a node hardly ever lives long enough to complete a unit.
    """
    check_ends(units, crew, faults)
    return Simulation(units, crew, faults).run()


class Simulation:
    """The engines of a run, what they hold, and the events that are still to come."""

    def __init__(self, units: Units, crew: Crew, faults: Faults):
        self.crew = crew
        self.queue, self.factors = Queue(units), spreads(faults)
        self.nodes = [Node(number, faults) for number in range(crew.num_nodes)]
        self.engines = [
            SimulatedEngine(node, pace(crew, faults, number), node.lives[0])
            for number, node in enumerate(self.nodes)
            for _ in range(crew.engines_per_node)
        ]
        self.events = [(engine.life.arrival + crew.start_s, number) for number, engine in enumerate(self.engines)]
        """When each engine that is not idle is to be looked at next, and its number; a heap."""
        heapq.heapify(self.events)
        self.idle: list[int] = []
        self.num_units, self.num_fresh = self.queue.num_left, len(self.engines)
        self.num_done = self.num_redone = 0
        self.wall_s = self.useful_s = self.lost_s = self.commit_from = 0.0

    def run(self) -> SimulatedRun:
        while self.num_done < self.num_units:
            now, number = self.events[0]
            engine = self.engines[number]
            if now >= engine.life.end:
                self.lose(engine, number, now)
                continue
            if engine.began is not None:
                now = self.commit(engine, now)
            self.hand_out(engine)
            self.begin(engine, number, now)
        return SimulatedRun(
            wall_s=self.wall_s,
            engine_s=self.crew.engines_per_node * sum(paid(node, self.wall_s) for node in self.nodes),
            useful_s=self.useful_s,
            lost_s=self.lost_s,
            num_units=self.num_units,
            num_redone=self.num_redone,
            num_preemptions=sum(life.end <= self.wall_s for node in self.nodes for life in node.lives),
            num_starts=sum(life.arrival < self.wall_s for node in self.nodes for life in node.lives),
        )

    def lose(self, engine: SimulatedEngine, number: int, now: float) -> None:
        """The engine's node was lost while the engine worked, loaded or waited. It starts again on the next node."""
        if engine.began is not None:
            self.lost_s += max(0.0, engine.life.end - engine.began)
            self.num_redone += 1
            engine.began = None
        self.queue.give_back(engine.held)
        engine.held.clear()
        engine.life = engine.node.life_at(now)
        heapq.heapreplace(self.events, (max(now, engine.life.arrival + self.crew.start_s), number))
        if self.queue.num_left:
            for waiting in self.idle:
                heapq.heappush(self.events, (now, waiting))
            self.idle.clear()

    def commit(self, engine: SimulatedEngine, now: float) -> float:
        """The engine has done its first unit. Return the time at which the unit is committed."""
        assert engine.began is not None
        self.useful_s += now - engine.began
        engine.held.pop(0)
        self.num_done += 1
        self.wall_s = max(now, self.commit_from)
        self.commit_from = self.wall_s + (1 / self.crew.units_per_s if self.crew.units_per_s else 0.0)
        return self.wall_s

    def hand_out(self, engine: SimulatedEngine) -> None:
        """Give the engine as many units as it holds at once. The first units are dealt evenly."""
        room = self.crew.units_ahead - len(engine.held)
        if engine.fresh:
            room = min(room, math.ceil(self.queue.num_left / self.num_fresh))
            self.num_fresh, engine.fresh = self.num_fresh - 1, False
        for _ in range(min(room, self.queue.num_left)):
            engine.held.append(self.queue.take())

    def begin(self, engine: SimulatedEngine, number: int, now: float) -> None:
        """The engine begins its first unit, or waits if it holds none."""
        if not engine.held:
            engine.began = None
            heapq.heappop(self.events)
            self.idle.append(number)
            return
        engine.began = now
        end = now + engine.held[0] * engine.s_per_row * next(self.factors)
        heapq.heapreplace(self.events, (min(end, engine.life.end), number))


def check_ends(units: Units, crew: Crew, faults: Faults) -> None:
    """Raises: ConfigError if the simulation would not end."""
    slowest = faults.slow_factor if faults.slow_share else 1.0
    unit_s = max((rows for count, rows in units if count), default=0) * slowest / crew.rows_per_s
    if faults.preemptions_per_hour * (crew.start_s + unit_s) / 3600 > math.log(MOST_ATTEMPTS):
        raise ConfigError(
            f"preemptions_per_hour {faults.preemptions_per_hour:g}: a node hardly ever lives for the "
            f"{crew.start_s:.0f} s of its start and the {unit_s:.0f} s of a unit"
        )


def pace(crew: Crew, faults: Faults, node: int) -> float:
    """Seconds per row of a node's engines; the first nodes are the slow ones."""
    slow = node < round(faults.slow_share * crew.num_nodes)
    return (faults.slow_factor if slow else 1.0) / crew.rows_per_s


def paid(node: Node, until: float) -> float:
    """Seconds for which the node or its replacements existed."""
    node.life_at(until)
    return sum(max(0.0, min(life.end, until) - life.arrival) for life in node.lives)


def exponentials(seed: int, node: int) -> Iterator[float]:
    """Exponential draws of mean 1. Those of a node do not depend on the number of nodes."""
    random = generator(seed, "node", node)
    while True:
        yield from random.exponential(size=16).tolist()


def spreads(faults: Faults) -> Iterator[float]:
    """Factors of mean 1 on the time of a unit, one for each unit that is begun."""
    sigma = math.sqrt(math.log1p(faults.unit_spread**2))
    random = generator(faults.seed, "units")
    while True:
        yield from random.lognormal(-(sigma**2) / 2, sigma, size=4096).tolist() if sigma else [1.0] * 4096
