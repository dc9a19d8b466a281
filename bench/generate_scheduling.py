"""Scheduling: how much of the time 16 replicas on 4 fake nodes are at work, with an engine of fixed service time.

Ideal is rows x service time / replicas. The steady state begins when every replica has served its first unit and
lasts until the last is served; a unit that was begun before counts by its part within.
"""

import logging
import tempfile
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from bench.figures import Figure
from bench.fresh import in_fresh_process
from bench.generate_growth import TinyPrompts
from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.progress import say
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model

NUM_NODES, REPLICAS_PER_NODE = 4, 4
SHARD_SIZE, UNITS_PER_REPLICA = 16, 16
SECONDS_PER_REQUEST = 0.25


def share_at_work() -> float:
    """The share of the replicas' time in the steady state in which they are at work."""
    num_replicas = NUM_NODES * REPLICAS_PER_NODE
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        head = {"num_cpus": 2, "temp_dir": directory, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NUM_NODES):
                cluster.add_node(num_cpus=REPLICAS_PER_NODE, resources={"generation": REPLICAS_PER_NODE})
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
            store = Store(f"{directory}/runs")
            source = TinyPrompts(num_prompts=SHARD_SIZE * UNITS_PER_REPLICA * num_replicas)
            prompts = prepare(Prepare(shard_size=SHARD_SIZE), store, "tiny", source)
            journal = Path(directory, "journal")
            config = Generate(
                engine=FakeEngine(seconds_per_request=SECONDS_PER_REQUEST, journal=str(journal)),
                min_engines=num_replicas,
                max_engines=num_replicas,
            )
            generate(config, store, Model(name="fake", directory=".", fingerprint=""), [(prompts, "clean")])
            return share_of(journal.read_text(encoding="utf-8").splitlines(), num_replicas)
        finally:
            ray.shutdown()
            cluster.shutdown()


def share_of(journal: list[str], num_replicas: int) -> float:
    """Share of the steady state in which the replicas were at work. A line of the journal is `time pid prompt_id`, and
    those of a unit are written together when it is served."""
    served = [(float(time), pid) for time, pid, _ in map(str.split, journal[SHARD_SIZE - 1 :: SHARD_SIZE])]
    first = {pid: time for time, pid in reversed(served)}
    assert len(first) == num_replicas, f"{len(first)} replicas served"
    begin, end = max(first.values()), max(time for time, _ in served)
    at_work = sum(min(time - begin, SHARD_SIZE * SECONDS_PER_REQUEST) for time, _ in served if time > begin)
    share = at_work / (num_replicas * (end - begin))
    say(f"scheduling: {len(served)} units, {end - begin:.1f} s of steady state, replicas at work {share:.1%} of it")
    return share


def measure(command: str, full: bool) -> list[Figure]:
    seconds = SHARD_SIZE * SECONDS_PER_REQUEST
    return [
        Figure(
            figure="scheduling of 16 fake replicas on 4 nodes",
            ratio=in_fresh_process(share_at_work),
            target=0.95,
            better="higher",
            rival=f"ideal: replicas always at work, units of {seconds:g} s",
            command=command,
        )
    ]
