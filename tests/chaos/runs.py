"""A run of the driver that is killed and started again, and a run without Ray to compare its files with."""

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import names_in, read_bytes
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.stages.generate import finish_responses, missing_units, open_responses
from seva_ray.stages.unit_worker import UnitWorker, encode_units, task_of
from seva_ray.vlm.models import Model
from tests.chaos import driver
from tests.chaos.machines import PATIENCE_S, Machines
from tests.environment import pythonpath


@dataclass(kw_only=True)
class Run:
    """One job, started as often as it takes."""

    machines: Machines
    words: list[str]
    """Its command line."""
    log: Path
    script: str = driver.__file__
    process: subprocess.Popen = field(init=False)

    def start(self) -> None:
        environment = os.environ | {"RAY_ADDRESS": self.machines.cluster.address, "PYTHONPATH": pythonpath()}
        command = [sys.executable, self.script, *self.words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def check_running(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()


def uninterrupted(config: Generate, store: Store, model: Model, prompts: Artifact, view: str) -> Artifact:
    """The units one after the other, in this process, without Ray."""
    artifact = open_responses(config, store, model, prompts, view)
    engine = replace(config.engine, seconds_per_request=0.0) if isinstance(config.engine, FakeEngine) else config.engine
    worker = UnitWorker(engine, config.decoding, (model.directory, f"{model.fingerprint} {model.contents}"))
    for unit in missing_units(model, prompts, view, artifact):
        worker(encode_units({"units": [task_of([unit])["units"]]}, config))
    return finish_responses(prompts, artifact)


def shards(uri: str) -> dict[str, bytes]:
    """Name and bytes of each file in a directory that counts as done; none where there is no such directory."""
    return {name: read_bytes(f"{uri}/{name}") for name in sorted(names_in(uri)) if name.endswith(".parquet")}
