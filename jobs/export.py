"""export a trained policy: merged weights or its adapter, with a model card; to a directory, and to a hub if wanted.

python jobs/export.py --name toy --export.to exported/toy
"""

import os
from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.stages.export import Export, export


@dataclass(frozen=True, kw_only=True)
class ExportJob(Job):
    """A policy as others use it."""

    name: str
    """The policy: `policies/<name>`."""
    export: Export = field(default_factory=lambda: Export(to="exported"))


def main(config: ExportJob) -> None:
    if config.export.push:
        os.environ["HF_HUB_OFFLINE"] = "0"  # other jobs never ask a hub
    export(config.export, Store(config.root), config.name)


PRESETS = {"toy": ExportJob(name="toy")}

if __name__ == "__main__":
    run(main, PRESETS, "A policy as others use it.", USUAL)
