"""The generate stage with vLLM, paced: how long it takes from the moment the engine is ready to the last commit.

Reading and augmenting begin no earlier either, so that nothing is made ready while the model loads. vLLM computes on
one core and the CPU tasks run on another, as on a machine with GPUs, where the two do not compete.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.fresh import own_cluster
from bench.workload import DECODING, Workload
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.fingerprints import execution
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.vllm import VllmGenerator
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.encoding import Encoder


@dataclass(frozen=True, kw_only=True)
class GatedEngine(VllmEngine):
    """A vLLM engine whose CPU tasks wait until it has loaded."""

    gate: str = execution("")
    """A file whose modification time says when the engine was ready."""

    def encoder(self, directory: str, system: str, image_options: str = "") -> Encoder:
        encoder = super().encoder(directory, system, image_options)
        while not Path(self.gate).exists():
            time.sleep(0.02)
        return encoder

    def load(self, directory: str, decoding: Decoding, image_options: str = "") -> VllmGenerator:
        generator = super().load(directory, decoding, image_options)
        Path(self.gate).touch()
        return generator


@dataclass(frozen=True, kw_only=True)
class Pace:
    rate: float
    """Rows/s in steady state."""
    seconds: float
    """Seconds from the moment at which the engine is ready to the last commit."""
    whole_seconds: float
    """Seconds of the whole call, with the start of the engine."""


def steady_rate(commits: Sequence[tuple[float, int]]) -> float:
    """Rows/s from the third commit to the third-last: as much was half done at the one as at the other.

    `commits`: time in s and number of rows of each.
    """
    assert len(commits) >= 16, "two units overlap, so that commits come in pairs: a few say nothing"
    (began, _), *between = sorted(commits)[2:-2]
    return sum(rows for _, rows in between) / (between[-1][0] - began)


def run_stage(workload: Workload, views: Sequence[str]) -> Pace:
    """One generate() call in a store of its own."""
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2):
        store = Store(root)
        prompts = prepare(Prepare(shard_size=workload.shard_size), store, "bench", workload.source)
        gate = Path(root, "ready")
        config = Generate(engine=GatedEngine(**asdict(workload.engine), gate=str(gate)), decoding=DECODING, system="")
        started = time.time()
        responses = generate(config, store, workload.model, [(prompts, view) for view in views])
        ended = time.time()
        for artifact in responses:
            check_length(artifact, workload.num_prompts)
        commits = [file.stat().st_mtime for artifact in responses for file in shards(artifact.uri)]
        ready = gate.stat().st_mtime
    assert workload.num_prompts % workload.shard_size == 0, "every commit has as many rows"
    return Pace(
        rate=steady_rate([(time_s, workload.shard_size) for time_s in commits]),
        seconds=max(commits) - ready,
        whole_seconds=ended - started,
    )


def check_length(responses: Artifact, num_prompts: int) -> None:
    counts = responses.counts
    assert counts["num_length"] == num_prompts, f"not all responses have full length: {counts}"


def shards(directory: str) -> list[Path]:
    return sorted(Path(directory).glob("*.parquet"))
