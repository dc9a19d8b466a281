"""Exports a trained policy (merged weights or its adapter), or pairs, to a directory and, if wanted, to a hub.

python jobs/export.py --name toy --export.to exported/toy
python jobs/export.py pairs --pairs toy-1/toy/diffusion-300 --export.to exported/pairs
"""

import os
from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.stages.export import Export, export
from seva_ray.stages.export_pairs import ExportPairs, export_pairs


@dataclass(frozen=True, kw_only=True)
class ExportJob(Job):
    """Export a policy in a form that other programs load."""

    name: str
    """The policy: `policies/<name>`."""
    export: Export = field(default_factory=lambda: Export(to="exported"))


@dataclass(frozen=True, kw_only=True)
class ExportPairsJob(Job):
    """Export pairs in the forms that other trainers read."""

    pairs: str
    """The pairs that jobs/pair.py made: <model>/<prompts>/<view>."""
    export: ExportPairs = field(default_factory=lambda: ExportPairs(to="exported-pairs"))


def main(config: ExportJob | ExportPairsJob) -> None:
    if config.export.push:
        os.environ["HF_HUB_OFFLINE"] = "0"  # other jobs never ask a hub
    store = Store(config.root)
    if isinstance(config, ExportPairsJob):
        export_pairs(config.export, store, f"pairs/{config.pairs.removeprefix('pairs/')}")
    else:
        export(config.export, store, config.name)


PRESETS: dict[str, ExportJob | ExportPairsJob] = {
    **{name: ExportJob(name=name) for name in ("toy", "toy-qwen")},
    "pairs": ExportPairsJob(pairs="toy-1/toy/diffusion-300"),
}

if __name__ == "__main__":
    run(main, PRESETS, "Export a policy, or pairs, for other tools.", USUAL)
