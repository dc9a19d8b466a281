"""What Ray serves at a node's metrics endpoint is what the artifacts say, and the dashboard asks for what is served."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_bytes
from seva_ray.runtime import metrics
from tests.environment import pythonpath
from tests.ray_head import free_port, ray_head, wait_for
from tests.small_run import SmallRun

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30
"""What has not been reported after this long never will."""

DEFINED = {value.name: value.labels for value in vars(metrics).values() if isinstance(value, metrics.Metric)}

VIEWS = """
import sys

from seva_ray.core.artifacts import Store
from seva_ray.engines import FakeEngine
from seva_ray.vlm.models import Model
from seva_ray.sources import ToyWorld
from seva_ray.runtime.cluster import cluster
from seva_ray.engines.config import Generate
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare

store, model = Store(sys.argv[1]), Model(name="fake", directory=".", fingerprint="fake")
config = Generate(engine=FakeEngine(seconds_per_request=0.05, failing_share=0.2))
with cluster():
    for views in (sys.argv[2:3], sys.argv[2:]):  # the second finds all that the first has made
        prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=12))
        chosen, *rejected = generate(config, store, model, [(prompts, view) for view in ("clean", *views)])
        for responses in rejected:
            pair(Pair(), store, prompts, chosen, [responses])
"""

TRAINING = """
import sys

from seva_ray.dpo.config import Train
from seva_ray.dpo.policy import Lora
from seva_ray.runtime.cluster import cluster
from seva_ray.stages.training.train import train
from tests.small_run import small_run

config = Train(
    dtype="float32", gradient_checkpointing=False, num_workers=1, per_device_batch_size=4, global_batch_size=8,
    num_repeats=1, learning_rate=1e-3, zero_stage=0, save_steps=1, lora=Lora(rank=4, alpha=8),
)
with cluster():
    run = small_run(*sys.argv[1:])
    train(config, run.store, "watched", run.model, run.pairs)
"""


@dataclass(frozen=True, kw_only=True)
class Head:
    environment: dict[str, str]
    """The environment variables with which a process joins it."""
    port: int
    """The port of its metrics."""

    def scrape(self) -> list[Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        return [sample for family in families for sample in family.samples if sample.name.startswith("ray_seva_")]

    def values(self, name: str, **labels: str) -> list[float]:
        """The values of all series that have these labels, of every process."""
        return [
            sample.value
            for sample in self.scrape()
            if sample.name == f"ray_{name}" and labels.items() <= sample.labels.items()
        ]

    def comes_to(self, expected: float, name: str, **labels: str) -> bool:
        """Whether the series together do, soon."""
        deadline = time.monotonic() + PATIENCE_S
        while (total := sum(self.values(name, **labels))) != expected and time.monotonic() < deadline:
            time.sleep(0.5)
        assert total == expected, (name, labels)
        return True

    def start(self, code: str, *arguments: str) -> subprocess.Popen:
        environment = os.environ | self.environment | {"PYTHONPATH": pythonpath()}
        return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE)

    def seen_while(self, process: subprocess.Popen, *names: str) -> dict[str, set[float]]:
        """All values that gauges had before the process ended well."""
        seen: dict[str, set[float]] = {name: set() for name in names}
        while process.poll() is None:
            for name in names:
                seen[name].update(self.values(name))
            time.sleep(0.3)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read().decode()
        return seen


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    port = free_port()
    options = (f"--metrics-export-port={port}", "--num-cpus=2")
    settings = {"RAY_metrics_report_interval_ms": "1000", "PYTHONPATH": pythonpath()}
    with ray_head(free_port(), *options, **settings) as environment:
        wait_for(port, "the metrics agent")
        yield Head(environment=environment, port=port)


def test_units_rows_tokens_verdicts_and_what_was_reused_are_those_of_the_artifacts(head: Head, tmp_path: Path):
    seen = head.seen_while(head.start(VIEWS, str(tmp_path), "diffusion-500", "moco"), "seva_engine_queue")
    store = Store(str(tmp_path))
    prompts = store.find("prompts/toy")
    for view in ("clean", "diffusion-500", "moco"):
        counts, labels = store.find(f"responses/fake/toy/{view}").counts, {"model": "fake", "view": view}
        assert head.comes_to(prompts.counts["num_shards"], "seva_units_total", **labels)
        assert head.comes_to(counts["num_responses"], "seva_rows_total", **labels)
        assert head.comes_to(counts["num_tokens"], "seva_output_tokens_total", **labels)
    for view in ("diffusion-500", "moco"):
        verdicts = store.find(f"pairs/fake/toy/{view}").counts["views"][view]
        assert verdicts["kept"] > 0 < verdicts["failed"]
        for verdict, count in verdicts.items():
            assert head.comes_to(count, "seva_verdicts_total", model="fake", view=view, verdict=verdict)
    for kind, count in {"prompts": 1, "responses": 2, "pairs": 1}.items():
        assert head.comes_to(count, "seva_reused_total", kind=kind)
    addresses = {sample.labels["NodeAddress"] for sample in head.scrape()}
    assert addresses == {"127.0.0.1"}
    # Two units at once, of 16 rows or what is left for the last.
    last = prompts.counts["num_prompts"] % 16
    assert seen["seva_engine_queue"] <= {0, 16, 32, last, last + 16, 2 * last}
    assert max(seen["seva_engine_queue"]) >= 16


def test_the_reward_margin_is_the_training_log_s_and_a_checkpoint_has_its_time(head: Head, run: SmallRun):
    began = time.time()
    process = head.start(TRAINING, run.store.root, run.model.directory)  # it finds the pairs that are there
    seen = head.seen_while(process, "seva_reward_margin", "seva_checkpoint_timestamp_seconds")
    log = json.loads(read_bytes(run.store.uri("policies/watched/log.json")))
    margins = [row["rewards/margins"] for row in log if "loss" in row]
    assert margins[-1] != 0
    assert margins[-1] in seen["seva_reward_margin"] <= set(margins)
    assert began < min(seen["seva_checkpoint_timestamp_seconds"])
    assert max(seen["seva_checkpoint_timestamp_seconds"]) < time.time()


def test_the_dashboard_draws_every_metric_of_ours_by_labels_that_it_has():
    board = json.loads((ROOT / "cluster" / "grafana.json").read_text())
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]
    drawn = set()
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            labels = set(re.findall(r"\w+", "".join(re.findall(r"by \((.*?)\)", target["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == labels
            for name in re.findall(r"\bray_(seva_\w+)", target["expr"]):
                drawn.add(name)
                assert labels <= {*DEFINED[name], "NodeAddress"}
    assert drawn == set(DEFINED)
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
