"""Makes prompts of a source -> the artifact `prompts/<name>`.

python jobs/prepare.py --name photos source:folder --source.path photos
"""

from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.runtime.cli import run
from seva_ray.sources import AnySource, ToyWorld
from seva_ray.stages.prepare import Prepare, prepare


@dataclass(frozen=True, kw_only=True)
class PrepareJob(Job):
    """Make a prompt set from a source."""

    name: str
    """Names the prompt set."""
    source: AnySource
    """Where prompts come from."""
    prepare: Prepare = field(default_factory=Prepare)


def main(config: PrepareJob) -> None:
    store = config.store()
    prepare(config.prepare, store, config.name, config.source)


PRESETS = {name: PrepareJob(name="toy", source=ToyWorld()) for name in ("toy", "toy-qwen")}

if __name__ == "__main__":
    run(main, PRESETS, "Make a prompt set from a source.", USUAL)
