"""Prometheus metrics of a run: what it has done so far, and how it is doing. cluster/grafana.json plots them.

Each metric is recorded in the process where the event happens. Ray's agent on that node collects the metrics and serves
them beside Ray's own, with `ray_` before their names. Counters only grow; the reader computes rates. A gauge that is
not set again disappears after two of Ray's report intervals (20 s).
Recording only changes a number in this process. A job that finds all its work done starts no Ray, so nobody sees what
it counts.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from seva_ray.core.artifacts import Artifact
from seva_ray.core.records import Response
from seva_ray.engines import Generator
from seva_ray.engines.units import Unit

WATCH_EVERY_S = 2.0
"""Seconds between two readings of an engine's queue."""


class Metric(NamedTuple):
    """A counter if its name ends in `_total`, as in Prometheus; otherwise a gauge."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


UNIT = ("model", "view")
UNITS = Metric("seva_units_total", "Units (shard of prompts x view) committed by engines.", UNIT)
ROWS = Metric("seva_rows_total", "Responses in committed units, including those with an error.", UNIT)
OUTPUT_TOKENS = Metric("seva_output_tokens_total", "Tokens of the responses in committed units.", UNIT)
CACHED_TOKENS = Metric("seva_engine_cached_tokens_total", "Prompt tokens found in vLLM's prefix cache.", UNIT)
QUEUE = Metric("seva_engine_queue", "Requests that an engine has accepted and not yet answered.")
REUSED = Metric("seva_reused_total", "Artifacts that were complete and were not made again.", ("kind",))
VERDICTS = Metric("seva_verdicts_total", "Verdicts on a prompt's responses.", ("model", "view", "verdict"))
REWARD_MARGIN = Metric("seva_reward_margin", "Mean reward of chosen minus rejected in the last step.", ("policy",))
CHECKPOINT = Metric("seva_checkpoint_timestamp_seconds", "When the last checkpoint was saved, Unix time.", ("policy",))

MADE: dict[Metric, Any] = {}
"""Ray's object for each metric that this process has recorded."""
MAKING = threading.Lock()

EARLY: list[tuple[Metric, int, dict[str, str]]] = []
"""Counts from before this process joined Ray. Ray would lose them, so they are added after it has joined."""


def committed(unit: Unit, responses: Sequence[Response]) -> None:
    tags = {"model": unit.model, "view": unit.view}
    add(UNITS, 1, tags)
    add(ROWS, len(responses), tags)
    add(OUTPUT_TOKENS, sum(len(response.token_ids) for response in responses), tags)
    add(CACHED_TOKENS, sum(response.num_cached_tokens for response in responses), tags)


def watch(generator: Generator) -> None:
    """Record the engine's queue from now on, in a thread that ends with this process."""

    def look() -> None:
        while True:
            in_ray(QUEUE).set(generator.num_unanswered)
            time.sleep(WATCH_EVERY_S)

    threading.Thread(target=look, daemon=True).start()


def reused(artifact: Artifact) -> Artifact:
    """Count the artifact as reused, by its kind (`responses`, `pairs`, `policies`, ...), and return it."""
    add(REUSED, 1, {"kind": artifact.name.partition("/")[0]})
    return artifact


def judged(pairs: Artifact, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Count the verdicts. `counts`: view -> verdict -> number of prompts."""
    model = pairs.name.split("/")[1]
    for view, verdicts in counts.items():
        for verdict, count in verdicts.items():
            add(VERDICTS, count, {"model": model, "view": view, "verdict": verdict})


def trained(policy_uri: str, margin: float | None, saved: float | None) -> None:
    """Set the gauges of a training. `saved` is the Unix time of the last checkpoint, in s. None changes nothing."""
    tags = {"policy": policy_uri.rsplit("/", 1)[-1]}
    in_ray(REWARD_MARGIN).set(margin, tags)
    in_ray(CHECKPOINT).set(saved, tags)


def add(counter: Metric, amount: int, tags: dict[str, str]) -> None:
    if not connected():
        EARLY.append((counter, amount, tags))
    elif amount:  # Ray's counters refuse 0
        in_ray(counter).inc(amount, tags)


def in_ray(metric: Metric) -> Any:
    """Ray's object for the metric. It is made at the first use, because Ray takes half a second to import."""
    from ray.util.metrics import Counter, Gauge

    with MAKING:
        if metric not in MADE:
            kind = Counter if metric.name.endswith("_total") else Gauge
            MADE[metric] = kind(metric.name, metric.description, metric.labels)
        return MADE[metric]


def connected() -> bool:
    """Whether this process has joined Ray. This does not import Ray, which takes half a second."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def joined() -> None:
    """Add the counts from before: this process has now joined Ray."""
    while EARLY:
        add(*EARLY.pop())
